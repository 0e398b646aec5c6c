"""A program that tries the walls, for ``kubegym sandbox check``: what it says was tried, not read off a list."""

from __future__ import annotations

from typing import Any

from kubegym.sandbox.check import Wall
from kubegym.sandbox.local import LocalSandbox, SandboxSettings
from kubegym.sandbox.protocol import Limits

_ATTEMPTS = """
import ctypes, os, socket
def attempt(name, function):
    try:
        function()
    except BaseException as error:
        found.append((name, True, f"{type(error).__name__}: {error}"))
    else:
        found.append((name, False, "it worked"))
found = []
attempt("read outside", lambda: open("/etc/passwd").read())
attempt("list processes", lambda: os.listdir("/proc"))
attempt("write outside", lambda: open("/tmp/kubegym-sandbox-check", "w"))
attempt("open a socket", lambda: socket.socket())
attempt("start a process", os.fork)
attempt("signal the warden", lambda: os.kill(os.getppid(), 0))
attempt("become root", lambda: os.setuid(0))
attempt("10 GB of memory", lambda: bytearray(10 << 30))
attempt("memory file", lambda: os.memfd_create("x"))
found.append(("no root", os.geteuid() != 0, f"user {os.geteuid()}"))
found.append(("clean environment", not any("KUBEGYM" in name for name in os.environ), f"{len(os.environ)} variables"))
"""


async def probed(without: frozenset[Wall]) -> list[tuple[str, bool, str]]:
    """What was tried, whether it was refused, and how. Raises SandboxUnavailable and SandboxError."""
    sandbox = LocalSandbox(SandboxSettings(libraries=(), places=1, without=without))
    try:
        done = await sandbox.run(_ATTEMPTS, limits=Limits(cpu_seconds=5), value="found")
    finally:
        await sandbox.close()
    found: Any = done.value if done.has_value else []
    if not found:
        return [("probe", False, f"the probe did not end well: {done.stderr[-500:]}")]
    return [(str(name), bool(held), str(text)) for name, held, text in found]
