"""A session in this process: one Environment instance behind ``core.protocols.Session``.

How an author's code can end, and what becomes of it (DESIGN 3.2):

============================ ====================== ======================= =========================
what happened                in a tool              in ``verify``           in ``seed``, ``respond``
============================ ====================== ======================= =========================
computed too long            ToolTimeout            VerifierTimeout         SeedTimeout, ...
waited too long              ToolTimeout, retried   VerifierStarved, retr.  SeedStarved, ... retried
blocked the loop             ToolStarved, retried   VerifierStarved, retr.  SeedStarved, ... retried
its process died             ToolCrashed            VerifierCrashed         SeedCrashed, ...
network or system trouble    ToolUnavailable, retr. VerifierCrashed         SeedCrashed, ...
a model it asked failed      stage model            stage judge             stage model
any other exception          ToolCrashed            VerifierCrashed         SeedCrashed, ...
no ``Verdict``, NaN                                 VerifierInvalidVerdict
============================ ====================== ======================= =========================

``ToolError``, bad arguments and unknown tools are no failures: their text answers the model. A ``RolloutError``
that the author raises passes as it is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from kubegym.core import trajectory
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, JudgeError, ModelError, RolloutError, ToolError, ToolFailed, VerifierError
from kubegym.core.messages import Done, Item, Message, Turn
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.resources.environment import Environment
from kubegym.resources.limits import CpuTimeExceeded, ProcessDied, WallTimeExceeded
from kubegym.resources.roles import hook_deadline
from kubegym.resources.tools import NOT_FOUND, cut, output_text, validation_detail

if TYPE_CHECKING:
    from kubegym.resources.runtime import EnvironmentRuntime

_log = logging.getLogger(__name__)
_OUR_CODE = str(Path(__file__).parents[1] / "resources")
_PATH_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


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


class LocalSession:
    """One rollout's environment, in this process. Made by ``EnvironmentRuntime.session``."""

    __slots__ = ("_environment", "_invalid", "_limits", "_runtime", "_watchdog", "deadline", "multi_turn", "usage")

    def __init__(
        self,
        runtime: EnvironmentRuntime,
        environment: Environment,
        usage: dict[str, dict[str, int]],
        invalid: AgentError | None = None,
    ) -> None:
        self._runtime = runtime
        self._environment = environment
        self._invalid = invalid
        self._limits = runtime.limits
        self._watchdog = runtime.watchdog
        self.multi_turn = runtime.multi_turn
        self.deadline: Deadline | None = None
        self.usage = usage

    @property
    def environment(self) -> Environment:
        """The instance, for tests."""
        return self._environment

    async def seed(self) -> list[Item]:
        """Initialise the instance and run its ``seed``. Raises AgentError "SeedCrashed", "SeedTimeout", ..."""
        if self._invalid is not None:
            raise self._invalid
        if not self._runtime.seeds:
            return []
        with _as_agent_error("Seed"):
            if self._runtime.initialises:
                self._inline("__init__", self._environment.__init__)  # type: ignore[misc]
            messages = await self._run("seed", self._limits.hook_seconds, self._environment.seed)
            if messages is None:
                return []
            if not isinstance(messages, list | tuple):
                raise TypeError(f"seed returned {type(messages).__name__}; return None or a list of Message")
            return [_to_item("seed", message) for message in messages]

    def tools(self) -> list[dict[str, Any]]:
        """The class's tool definitions; one list for all sessions, not to be changed."""
        return self._runtime.tools.definitions

    def parallel(self, name: str) -> bool:
        """Whether calls of this tool may run beside others of the same turn."""
        tool = self._runtime.tools.find(name)
        return tool is not None and tool.parallel

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> str:
        """Run a tool and give its output text. Raises ToolFailed, or ModelError from a model the tool asked."""
        tool = self._runtime.tools.find(name)
        if tool is None:
            return NOT_FOUND
        limit = self._limits.output_characters
        method = getattr(self._environment, tool.attribute)
        try:
            if tool.definition is None:
                result = await self._run(tool.label, self._limits.tool_seconds, method, name, arguments)
            else:
                try:
                    keywords = tool.validate(arguments)
                except ValidationError as error:
                    return cut(validation_detail(error), limit)
                result = await self._run(tool.label, self._limits.tool_seconds, method, **keywords)
            return cut(output_text(result), limit)
        except ToolError as refusal:
            return cut(output_text(str(refusal)), limit)
        except RolloutError:
            raise
        except CpuTimeExceeded as error:
            raise ToolFailed(str(error), reason="ToolTimeout") from error
        except _WaitedTooLong as error:
            raise ToolFailed(str(error), reason="ToolTimeout", retryable=True) from error
        except WallTimeExceeded as error:
            raise ToolFailed(str(error), reason="ToolStarved", retryable=True) from error
        except Exception as error:
            if _is_unavailability(error):
                raise ToolFailed(crash_text(tool.label, error), reason="ToolUnavailable", retryable=True) from error
            raise ToolFailed(crash_text(tool.label, error), reason="ToolCrashed") from error

    async def respond(self, turn: Turn) -> Message | Done:
        """The environment's reply. Raises AgentError "RespondCrashed", "RespondTimeout", ..."""
        with _as_agent_error("Respond"):
            reply = await self._run("respond", self._limits.hook_seconds, self._environment.respond, turn)
            if not isinstance(reply, Message | Done):
                raise TypeError(f"respond returned {type(reply).__name__}; return Message.user(...) or Done()")
            return reply

    async def verify(self, rollout: Rollout) -> Verdict:
        """The verdict. Raises VerifierError, JudgeError."""
        if self._invalid is not None:
            raise self._invalid
        try:
            verdict = await self._run("verify", self._limits.verify_seconds, self._environment.verify, rollout)
        except Exception as error:
            raise verifier_error("verify", error) from error
        check_verdict("verify", verdict)
        return verdict  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Run the environment's ``close``; its trouble is logged, never raised."""
        if not self._runtime.closes:
            return
        try:
            await self._run("close", self._limits.close_seconds, self._environment.close)
        except Exception as error:
            _log.warning("%s", crash_text("close", error), extra={"rollout_id": self._environment._identity[2]})

    def _inline(self, label: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._watchdog.call(label, self._limits.sync_seconds, function, *args, **kwargs)
        except SystemExit as error:
            raise RuntimeError(f"{label} called sys.exit({error.code!r})") from error

    async def _run(self, label: str, seconds: float, hook: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a hook, sync or async, within its limits."""
        result = self._inline(label, hook, *args, **kwargs)
        if type(result) is CoroutineType or inspect.isawaitable(result):
            return await self._awaited(label, seconds, result)
        return result

    async def _awaited(self, label: str, seconds: float, result: Awaitable[Any]) -> Any:
        deadline = HookDeadline(seconds, self.deadline)
        coroutine = result if isinstance(result, CoroutineType) else _coroutine(result)
        token = hook_deadline.set(deadline)
        scope = deadline.timeout()
        try:
            async with scope:
                return await self._watchdog.steps(label, self._limits.sync_seconds, coroutine)
        except TimeoutError as error:
            if scope.expired():
                raise _WaitedTooLong(f"{label} waited for more than {seconds:g} s") from error
            raise
        except SystemExit as error:
            raise RuntimeError(f"{label} called sys.exit({error.code!r})") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError(f"{label} was cancelled by its own code") from error
        finally:
            hook_deadline.reset(token)


class _WaitedTooLong(WallTimeExceeded):
    """An async hook over its limit: it waited for something, the event loop was free."""


def verifier_error(label: str, error: Exception) -> RolloutError:
    """What an exception out of a verifier becomes."""
    if isinstance(error, ModelError):
        return JudgeError(error.message, reason=error.reason, retryable=error.retryable)
    if isinstance(error, RolloutError):
        return error
    if isinstance(error, CpuTimeExceeded):
        return VerifierError(str(error), reason="VerifierTimeout")
    if isinstance(error, WallTimeExceeded):
        return VerifierError(str(error), reason="VerifierStarved", retryable=True)
    if isinstance(error, ProcessDied):
        return VerifierError(str(error), reason="VerifierCrashed")
    reason = "VerifierInvalidVerdict" if _from_verdict(error) else "VerifierCrashed"
    return VerifierError(crash_text(label, error), reason=reason)


def check_verdict(label: str, verdict: object) -> None:
    """Raise VerifierError "VerifierInvalidVerdict" for what is no Verdict or could not be written to a row."""
    if not isinstance(verdict, Verdict):
        example = f"Verdict({verdict!r})" if isinstance(verdict, int | float) else "Verdict(reward)"
        raise VerifierError(
            f"{label} returned {type(verdict).__name__} {verdict!r:.200}; return {example}",
            reason="VerifierInvalidVerdict",
        )
    if verdict.fields:
        try:
            orjson.dumps(verdict.fields, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise VerifierError(
                f"{label}: the verdict's fields are not JSON: {error}", reason="VerifierInvalidVerdict"
            ) from error


@contextmanager
def _as_agent_error(hook: str) -> Iterator[None]:
    try:
        yield
    except RolloutError:
        raise
    except CpuTimeExceeded as error:
        raise AgentError(str(error), reason=f"{hook}Timeout") from error
    except WallTimeExceeded as error:
        raise AgentError(str(error), reason=f"{hook}Starved", retryable=True) from error
    except Exception as error:
        raise AgentError(crash_text(hook.lower(), error), reason=f"{hook}Crashed") from error


def _to_item(hook: str, message: object) -> Item:
    if isinstance(message, Message):
        return message.to_item()
    if isinstance(message, dict):
        return message
    raise TypeError(f"{hook} returned a list with {type(message).__name__}; each must be a Message")


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


def _from_verdict(error: Exception) -> bool:
    """Whether the Verdict constructor refused its arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    refused = bool(frames) and frames[-1].filename == trajectory.__file__ and isinstance(error, TypeError | ValueError)
    return refused or (isinstance(error, TypeError) and "Verdict.__init__()" in str(error))


def _is_unavailability(error: Exception) -> bool:
    """Whether what the tool talks to is in trouble, as opposed to the tool: the same call may work later."""
    if isinstance(error, OSError):  # ConnectionError and TimeoutError are OSErrors
        return not isinstance(error, _PATH_ERRORS)
    for module, names in (("httpx", ("TransportError",)), ("aiohttp", ("ClientConnectionError", "ClientPayloadError"))):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, tuple(getattr(loaded, name) for name in names)):
            return True
    return False


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
