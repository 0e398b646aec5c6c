"""What the escapes attack: files, servers and processes beside the sandbox, and whether they are as they were."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import site
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubegym.sandbox


@dataclass
class World:
    """The outside of the sandbox.

    Attributes:
        facts: what programs are told of it; they could find out by trying.
        before: how its files looked.
    """

    folder: Path
    facts: dict[str, Any]
    listening: list[socket.socket]
    victim: subprocess.Popen[bytes]
    before: tuple[Any, ...] = ()
    temporary: set[str] = field(default_factory=set)

    def damage(self) -> list[str]:
        """What is no longer as it was."""
        found = []
        if self._looks() != self.before:
            found.append("the answers were changed")
        for listening in self.listening:
            with contextlib.suppress(BlockingIOError):
                listening.recv(1) if listening.type == socket.SOCK_DGRAM else listening.accept()
                found.append(f"{listening.getsockname()!r} was reached")
        if self.victim.poll() is not None:
            found.append("the victim was ended")
        escaped = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("escaped")]
        found += [f"{name} was written" for name in escaped]
        found += [f"process {pid} was left" for pid in _left(self.facts["daemon"])]
        return found

    def _looks(self) -> tuple[Any, ...]:
        answers = Path(self.facts["answers"])
        found = answers.stat()
        return (
            answers.read_bytes(),
            found.st_mode,
            found.st_uid,
            found.st_mtime_ns,
            found.st_nlink,
            os.listdir(self.folder),
        )


def _left(daemon: str) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if daemon.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    yield int(name)


@contextlib.contextmanager
def standing() -> Iterator[World]:
    """A world, for the block."""
    secret = secrets.token_hex(16)
    os.environ["KUBEGYM_ESCAPE_SECRET"] = secret
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubegym-world-")))
        folder.chmod(0o755)
        answers = folder / "answers.json"
        answers.write_text(json.dumps({"secret-answer": secret}))
        answers.chmod(0o666)
        inherited = os.open(answers, os.O_RDWR)
        os.set_inheritable(inherited, True)
        stack.callback(os.close, inherited)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening = [tcp]
        for kind, address in (
            (socket.SOCK_STREAM, str(folder / "unix")),
            (socket.SOCK_DGRAM, str(folder / "datagram")),
            (socket.SOCK_STREAM, f"\0kubegym-{secret[:8]}"),
        ):
            unix = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            unix.bind(address)
            if not address.startswith("\0"):
                os.chmod(address, 0o777)
            if kind == socket.SOCK_STREAM:
                unix.listen()
            listening.append(unix)
        for each in listening:
            each.setblocking(False)
        victim = subprocess.Popen(["sleep", "3600"])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        facts = {
            "answers": str(answers),
            "port": tcp.getsockname()[1],
            "unix": str(folder / "unix"),
            "unix_datagram": str(folder / "datagram"),
            "abstract": f"kubegym-{secret[:8]}",
            "caller": os.getpid(),
            "victim": victim.pid,
            "secret": secret,
            "daemon": f"kubegym-escaped-{secret[8:16]}",
            "site": next(
                (path for path in (*sys.path, *site.getsitepackages()) if "site-packages" in path), "/nowhere"
            ),
            "source": os.path.dirname(kubegym.sandbox.__file__),
        }
        world = World(folder, facts, listening, victim)
        world.before = world._looks()
        yield world
