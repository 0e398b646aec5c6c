"""Calling an author's hooks, sync or async, within their limits, and naming what goes wrong."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CoroutineType
from typing import Any

from kubegym.core.clock import Deadline
from kubegym.resources.limits import WallTimeExceeded
from kubegym.resources.roles import hook_deadline
from kubegym.resources.watchdog import Watchdog

_OUR_CODE = str(Path(__file__).parent)
_NETWORK_ERRORS = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
_PATH_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_MACHINE_ERRORS = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ESTALE}
)
_UNAVAILABLE_STATUS = frozenset({429, 502, 503, 504})
_TRANSPORT_ERRORS = (("httpx", ("TransportError",)), ("aiohttp", ("ClientConnectionError", "ClientPayloadError")))


class WaitedTooLong(WallTimeExceeded):
    """An async hook over its limit: it waited for something while the event loop was free."""


class HookDeadline(Deadline):
    """A hook's own limit. Waits for a busy model move it, and the rollout's deadline with it."""

    __slots__ = ("_rollout",)

    def __init__(self, seconds: float, rollout: Deadline | None) -> None:
        super().__init__(seconds)
        self._rollout = rollout

    def remaining(self) -> float:
        """Seconds left until the earlier of the two."""
        own = super().remaining()
        return own if self._rollout is None else min(own, self._rollout.remaining())

    def excuse(self, seconds: float) -> None:
        """Move both."""
        super().excuse(seconds)
        if self._rollout is not None:
            self._rollout.excuse(seconds)


class HookRunner:
    """Calls hooks of one environment on the event loop's thread.

    Args:
        watchdog: guards what runs inline.
        sync_seconds: how long that may take, see ``SessionLimits``.
    """

    __slots__ = ("_sync_seconds", "_watchdog")

    def __init__(self, watchdog: Watchdog, sync_seconds: float) -> None:
        self._watchdog = watchdog
        self._sync_seconds = sync_seconds

    def inline(self, label: str, hook: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a hook; an async one gives its awaitable. Raises Overrun and what the hook raises, see ``run``."""
        try:
            return self._watchdog.call(label, self._sync_seconds, hook, *args, **kwargs)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # nobody cancels what does not await: this is the hook's own, too
            raise _no_exception(label, error) from error

    async def run(
        self,
        label: str,
        seconds: float,
        rollout: Deadline | None,
        hook: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a hook and await it if it is async.

        Args:
            label: what messages call it.
            seconds: wall time of an async one.
            rollout: the deadline that waits for busy models move, too.
            hook: what to call.
            *args: for the hook.
            **kwargs: for the hook.

        Raises:
            Overrun: it took too long.
            Exception: whatever the hook raises; what is none (SystemExit, its own CancelledError, another framework's
                cancellation) as RuntimeError, so that one hook never ends a whole run.
        """
        result = self.inline(label, hook, *args, **kwargs)
        if type(result) is CoroutineType or inspect.isawaitable(result):
            return await self._awaited(label, seconds, rollout, result)
        return result

    async def _awaited(self, label: str, seconds: float, rollout: Deadline | None, result: Awaitable[Any]) -> Any:
        deadline = HookDeadline(seconds, rollout)
        coroutine = result if isinstance(result, CoroutineType) else _coroutine(result)
        token = hook_deadline.set(deadline)
        scope = deadline.timeout()
        try:
            async with scope:
                return await self._watchdog.steps(label, self._sync_seconds, coroutine)
        except TimeoutError as error:
            if scope.expired():
                raise WaitedTooLong(f"{label} waited for more than {seconds:g} s") from error
            raise
        except (Exception, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            raise _no_exception(label, error) from error
        finally:
            hook_deadline.reset(token)


def crash_text(label: str, error: BaseException) -> str:
    """Type, message and last frame of an exception, for a person who wrote the environment.

    The last frame that is not ours, if there is one: the line that called us wrongly says more than where we noticed.
    """
    place = getattr(error, "kubegym_frame", None)  # from a process of @offload, which tracebacks do not leave
    frames = traceback.extract_tb(error.__traceback__)
    if place is None and frames:
        theirs = [frame for frame in frames if not frame.filename.startswith(_OUR_CODE)]
        last = (theirs or frames)[-1]
        place = f"{last.filename}:{last.lineno} in {last.name}"
    return f"{label}: {type(error).__name__}: {error}" + (f" ({place})" if place else "")


def is_unavailability(error: Exception) -> bool:
    """Whether what a hook talks to is in trouble, as opposed to the hook: the same call may work later.

    Network errors are, and the machine's own (disk full, no file handles). What the policy may have caused is not: a
    path that does not exist, a name too long, a malformed URL; drawing again until it stops would bias the sample. Of
    HTTP's statuses 429 and 502 to 504 are (DESIGN section 7), whichever client raises them.
    """
    status = _http_status(error)
    if status is not None:
        return status in _UNAVAILABLE_STATUS
    if isinstance(error, OSError):
        if isinstance(error, _NETWORK_ERRORS):
            return True
        if error.errno is None:  # urllib's and requests' errors wrap the system's
            return not isinstance(error, (ValueError, *_PATH_ERRORS))
        return error.errno in _MACHINE_ERRORS
    for module, names in _TRANSPORT_ERRORS:
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, tuple(getattr(loaded, name) for name in names)):
            return True
    return False


def _http_status(error: Exception) -> int | None:
    """The status of urllib's, requests', httpx' and aiohttp's error for a reply that is no success."""
    response = getattr(error, "response", None)
    for status in (
        getattr(response, "status_code", None),
        getattr(error, "code", None),
        getattr(error, "status", None),
    ):
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _no_exception(label: str, error: BaseException) -> RuntimeError:
    """What a hook raised past every ``except Exception``, as one."""
    if isinstance(error, SystemExit):
        return RuntimeError(f"{label} called sys.exit({error.code!r})")
    if isinstance(error, asyncio.CancelledError):
        return RuntimeError(f"{label} was cancelled by its own code")
    return RuntimeError(f"{label} raised {type(error).__name__}: {error}")


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
