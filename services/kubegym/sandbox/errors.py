"""Errors of the sandbox. What the *program* did wrong is none of them: that is data in an ``Execution``.

::

    InputError
    ├── SandboxUnavailable     this machine or pod cannot enforce what was asked, and nobody allowed it to be missing
    └── InvalidExecution       files, limits or an expression that cannot be run
    RolloutError
    └── SandboxError           the sandbox could not do its part; never the program's verdict
        ├── SandboxLost        its process or pod ended meanwhile          retryable
        ├── SandboxBusy        no place became free in time                retryable
        └── SandboxStarved     the machine gave the program no processor   retryable
"""

from __future__ import annotations

from kubegym.core.errors import InputError, RolloutError


class SandboxUnavailable(InputError):
    """This machine or pod cannot enforce what was asked."""

    reason = "SandboxUnavailable"


class InvalidExecution(InputError):
    """Files, limits or an expression that cannot be run."""

    reason = "InvalidExecution"


class SandboxError(RolloutError):
    """The sandbox could not do its part. Says nothing of the program."""

    reason = "SandboxFailed"
    retryable = True


class SandboxLost(SandboxError):
    """The process or pod that held the program ended meanwhile."""

    reason = "SandboxLost"


class SandboxBusy(SandboxError):
    """No place became free in time."""

    reason = "SandboxBusy"


class SandboxStarved(SandboxError):
    """The program wanted a processor for most of its time and got none: the machine's fault (DESIGN 3.2)."""

    reason = "SandboxStarved"
