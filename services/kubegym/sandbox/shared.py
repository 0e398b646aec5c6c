"""The sandbox of this process's environments: pods where the operator named some, else this machine."""

from __future__ import annotations

import asyncio
import os
import weakref

from kubegym.sandbox.check import Wall
from kubegym.sandbox.errors import SandboxUnavailable
from kubegym.sandbox.local import LocalSandbox, SandboxSettings
from kubegym.sandbox.protocol import Sandbox
from kubegym.sandbox.remote import PodSandbox

URL_VARIABLE = "KUBEGYM_SANDBOX_URL"
"""The headless Service of the sandbox pods."""
TOKEN_VARIABLE = "KUBEGYM_SANDBOX_TOKEN_FILE"
WITHOUT_VARIABLE = "KUBEGYM_SANDBOX_WITHOUT"
"""Walls that may be missing here, comma-separated: landlock, seccomp, listener."""

_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Sandbox] = weakref.WeakKeyDictionary()


def process_sandbox() -> Sandbox:
    """The sandbox of the running event loop; the same at every call. Raises SandboxUnavailable."""
    loop = asyncio.get_running_loop()
    sandbox = _by_loop.get(loop)
    if sandbox is None:
        sandbox = _by_loop[loop] = _made()
    return sandbox


async def close_process_sandbox() -> None:
    """End the running loop's sandbox, if it has one."""
    sandbox = _by_loop.pop(asyncio.get_running_loop(), None)
    if sandbox is not None:
        await sandbox.close()


def _made() -> Sandbox:
    url = os.environ.get(URL_VARIABLE)
    if url:
        token_file = os.environ.get(TOKEN_VARIABLE)
        if not token_file:
            raise SandboxUnavailable(f"{URL_VARIABLE} is set without {TOKEN_VARIABLE}")
        return PodSandbox(url, token_file)
    return LocalSandbox(SandboxSettings(without=walls(os.environ.get(WITHOUT_VARIABLE, ""))))


def walls(text: str) -> frozenset[Wall]:
    """Walls by name, comma-separated. Raises SandboxUnavailable for a name that is none."""
    try:
        return frozenset(Wall(name.strip()) for name in text.split(",") if name.strip())
    except ValueError as error:
        raise SandboxUnavailable(f"{error}: there are {', '.join(Wall)}") from None
