"""A session in this process: one Environment instance behind ``core.protocols.Session``.

How an author's code can end, and what becomes of it (DESIGN 3.2):

============================ ====================== ======================= =========================
what happened                in a tool              in ``verify``           in ``seed``, ``respond``
============================ ====================== ======================= =========================
computed too long            ToolTimeout            VerifierTimeout         SeedTimeout, ...
waited too long              ToolTimeout, retried   VerifierStarved, retr.  SeedStarved, ... retried
blocked the loop             ToolStarved, retried   VerifierStarved, retr.  SeedStarved, ... retried
its process died             ToolCrashed            VerifierCrashed         SeedCrashed, ...
network or system trouble    ToolUnavailable, retr. VerifierUnavailable, r. SeedUnavailable, retried
a model it asked failed      stage model            stage judge             stage model
any other exception          ToolCrashed            VerifierCrashed         SeedCrashed, ...
no ``Verdict``, NaN                                 VerifierInvalidVerdict
============================ ====================== ======================= =========================

``ToolError``, bad arguments and unknown tools are no failures: their text answers the model. A ``RolloutError``
that the author raises passes as it is.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from kubegym.core import trajectory
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, JudgeError, ModelError, RolloutError, ToolError, ToolFailed, VerifierError
from kubegym.core.messages import Done, Item, Message, ToolOutput, Turn
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.resources.environment import Environment
from kubegym.resources.hooks import WaitedTooLong, crash_text, is_unavailability
from kubegym.resources.limits import CpuTimeExceeded, ProcessDied, WallTimeExceeded
from kubegym.resources.tools import NOT_FOUND, cut, output_text, tool_result, valid_unicode, validation_detail

if TYPE_CHECKING:
    from kubegym.resources.runtime import EnvironmentRuntime

_log = logging.getLogger(__name__)


class LocalSession:
    """One rollout's environment, in this process. Made by ``EnvironmentRuntime.session``."""

    __slots__ = ("_environment", "_invalid", "_limits", "_ready", "_runtime", "deadline", "multi_turn", "usage")

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
        self._ready = False
        self.multi_turn = runtime.multi_turn
        self.deadline: Deadline | None = None
        self.usage = usage

    @property
    def environment(self) -> Environment:
        """The instance, for tests."""
        return self._environment

    async def seed(self) -> list[Item]:
        """Initialise the instance and run its ``seed``. Raises AgentError "SeedCrashed", "SeedTimeout", ..."""
        self._prepare()
        if not self._runtime.seeds:
            return []
        with _as_agent_error("Seed"):
            messages = await self._run("seed", self._limits.hook_seconds, self._environment.seed)
            if messages is None:
                return []
            if not isinstance(messages, list | tuple):
                raise TypeError(f"seed returned {type(messages).__name__}; return None or a list of Message")
            return [_to_item("seed", message) for message in messages]

    def tools(self) -> list[dict[str, Any]]:
        """Tool definitions: this rollout's, else the class's, one list for all sessions, not to be changed."""
        offered = self._environment.offered_tools
        return self._runtime.tools.definitions if offered is None else offered

    def parallel(self, name: str) -> bool:
        """Whether calls of this tool may run beside others of the same turn."""
        tool = self._runtime.tools.find(name)
        return tool is not None and tool.parallel

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolOutput:
        """Run a tool and give its output. Raises ToolFailed, or ModelError from a model the tool asked."""
        return (await self.answer_tool(name, arguments))[0]

    async def answer_tool(self, name: str, arguments: dict[str, Any]) -> tuple[ToolOutput, int]:
        """As ``call_tool``, with the status that says what kind of output it is (contract 1.5).

        200: the tool's own; 400: its ToolError; 404: there is no such tool; 422: it does not take these arguments.
        """
        tool = self._runtime.tools.find(name)
        if tool is None:
            return NOT_FOUND, 404
        limit = self._limits.output_characters
        method = getattr(self._environment, tool.attribute)
        try:
            if tool.definition is None:
                result = await self._run(tool.label, self._limits.tool_seconds, method, name, arguments)
            else:
                try:
                    keywords = tool.validate(arguments)
                except ValidationError as error:
                    return cut(validation_detail(error), limit), 422
                result = await self._run(tool.label, self._limits.tool_seconds, method, **keywords)
            return tool_result(result, limit), 200
        except ToolError as refusal:
            return cut(output_text(str(refusal)), limit), 400
        except RolloutError:
            raise
        except CpuTimeExceeded as error:
            raise ToolFailed(str(error), reason="ToolTimeout") from error
        except WaitedTooLong as error:
            raise ToolFailed(str(error), reason="ToolTimeout", retryable=True) from error
        except WallTimeExceeded as error:
            raise ToolFailed(str(error), reason="ToolStarved", retryable=True) from error
        except Exception as error:
            if is_unavailability(error):
                raise ToolFailed(crash_text(tool.label, error), reason="ToolUnavailable", retryable=True) from error
            raise ToolFailed(crash_text(tool.label, error), reason="ToolCrashed") from error

    async def respond(self, turn: Turn) -> Message | Done:
        """The environment's reply. Raises AgentError "RespondCrashed", "RespondTimeout", ..."""
        with _as_agent_error("Respond"):
            reply = await self._run("respond", self._limits.hook_seconds, self._environment.respond, turn)
            if not isinstance(reply, Message | Done):
                raise TypeError(f"respond returned {type(reply).__name__}; return Message.user(...) or Done()")
            return reply if isinstance(reply, Done) else _writable(reply)

    async def verify(self, rollout: Rollout) -> Verdict:
        """The verdict. Raises VerifierError, JudgeError."""
        self._prepare()  # a stored rollout is verified without ``seed``
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

    def _prepare(self) -> None:
        """Run the instance's ``__init__`` once. Raises AgentError: the row does not fit, or ``__init__`` failed."""
        if self._ready:
            return
        if self._invalid is not None:
            raise self._invalid
        if self._runtime.initialises:
            with _as_agent_error("Seed"):
                self._runtime.hooks.inline("__init__", self._environment.__init__)  # type: ignore[misc]
        self._ready = True

    async def _run(self, label: str, seconds: float, hook: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await self._runtime.hooks.run(label, seconds, self.deadline, hook, *args, **kwargs)


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
    if is_unavailability(error):
        return VerifierError(crash_text(label, error), reason="VerifierUnavailable", retryable=True)
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
        unavailable = is_unavailability(error)
        reason = f"{hook}Unavailable" if unavailable else f"{hook}Crashed"
        raise AgentError(crash_text(hook.lower(), error), reason=reason, retryable=unavailable) from error


def _to_item(hook: str, message: object) -> Item:
    if not isinstance(message, Message | dict):
        raise TypeError(f"{hook} returned a list with {type(message).__name__}; each must be a Message")
    item = message if isinstance(message, dict) else _writable(message).to_item()
    orjson.dumps(item)  # what JSON cannot say must fail here, not when the row is written
    return item


def _writable(message: Message) -> Message:
    text = message.content
    return Message(message.role, valid_unicode(text)) if isinstance(text, str) and not text.isascii() else message


def _from_verdict(error: Exception) -> bool:
    """Whether the Verdict constructor refused its arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    refused = bool(frames) and frames[-1].filename == trajectory.__file__ and isinstance(error, TypeError | ValueError)
    return refused or (isinstance(error, TypeError) and "Verdict.__init__()" in str(error))
