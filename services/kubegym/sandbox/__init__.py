"""The sandbox: code that nobody trusts, contained (docs/sandbox.md says what is promised).

``kernel``, ``syscalls``, ``places``, ``proc``, ``scratch``, ``child``, ``warden`` and ``zygote`` run in the fork
server: they import nothing but the standard library, so that little of ours is in the memory that programs inherit. The
other modules run in the caller.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubegym.sandbox.errors import SandboxLost
    from kubegym.sandbox.local import LocalSandbox, SandboxSettings
    from kubegym.sandbox.protocol import Execution, Limits, Sandbox, SandboxSession
    from kubegym.sandbox.remote import PodSandbox
    from kubegym.sandbox.shared import process_sandbox

_HOMES = {
    "Execution": "protocol",
    "Limits": "protocol",
    "LocalSandbox": "local",
    "PodSandbox": "remote",
    "Sandbox": "protocol",
    "SandboxLost": "errors",
    "SandboxSession": "protocol",
    "SandboxSettings": "local",
    "process_sandbox": "shared",
}

__all__ = [
    "Execution",
    "Limits",
    "LocalSandbox",
    "PodSandbox",
    "Sandbox",
    "SandboxLost",
    "SandboxSession",
    "SandboxSettings",
    "process_sandbox",
]


def __getattr__(name: str) -> Any:
    """Import a name from its home when it is first asked for: the fork server imports this package, too."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
