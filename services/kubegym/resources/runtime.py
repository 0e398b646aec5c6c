"""One environment of a run in this process: its class, validated configuration and shared resources."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from kubegym.core.errors import AgentError, InvalidSpec
from kubegym.core.messages import input_items
from kubegym.core.protocols import Assignment, ModelClient
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.resources.environment import Environment, MaybeAwaitable
from kubegym.resources.hooks import HookRunner, crash_text
from kubegym.resources.limits import SessionLimits
from kubegym.resources.models import Row
from kubegym.resources.roles import ModelRoles
from kubegym.resources.session import LocalSession, check_verdict, verifier_error
from kubegym.resources.tools import tools_of
from kubegym.resources.watchdog import Watchdog

T = TypeVar("T")


class EnvironmentRuntime:
    """Makes the sessions of one environment.

    Args:
        cls: the environment.
        config: the manifest's ``config``; a job's overrides merged in.
        name: what errors call it; default the class's name.
        limits: of its sessions' hooks.
        watchdog: guards sync code of the event loop's thread; one for all runtimes of a loop, else its own.

    Raises:
        InvalidSpec: a class that is not a complete environment, or a configuration that it does not take.
    """

    def __init__(
        self,
        cls: type[Environment],
        config: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        limits: SessionLimits | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.cls = cls
        self.name = name or cls.__name__
        self.limits = limits or SessionLimits()
        self.watchdog = watchdog or Watchdog()
        self.hooks = HookRunner(self.watchdog, self.limits.sync_seconds)
        self._own_watchdog = watchdog is None
        try:
            self.tools = tools_of(cls)
        except (TypeError, NameError, ValueError) as error:
            raise InvalidSpec(f"environment {self.name}: {error}") from error
        self.config = _valid_config(cls, dict(config or {}), self.name)
        self.multi_turn = _overrides(cls, "respond")
        self.verifies_groups = _overrides(cls, "verify_group")
        if not self.verifies_groups and not _overrides(cls, "verify"):
            raise InvalidSpec(f"environment {self.name}: {cls.__name__} has neither verify nor verify_group")
        self.initialises = _overrides(cls, "__init__", object)
        self.seeds = _overrides(cls, "seed")
        self.closes = _overrides(cls, "close")
        self._task_validator = cls.Task.__pydantic_validator__
        self._checks_task = cls.Task is not Row and bool(cls.Task.model_fields)
        self._shared: Any = None
        self._started = False

    @property
    def version(self) -> str:
        """The environment's version."""
        return self.cls.version

    @property
    def verifier_version(self) -> str:
        """The verifier's version, by default the environment's."""
        return self.cls.verifier_version or self.cls.version

    async def start(self) -> None:
        """Run ``setup``; on the event loop that will run the sessions. Raises InvalidSpec when it fails."""
        self.watchdog.bind()
        seconds = self.limits.setup_seconds
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                self._shared = await _resolved(self.cls.setup(self.config))
        except (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # sys.exit, too: the message must say that setup did it
            problem = f"setup took more than {seconds:g} s" if scope.expired() else crash_text("setup", error)
            raise InvalidSpec(f"environment {self.name}: {problem}") from error
        self._started = True
        loop = asyncio.get_running_loop()
        _running[loop] = _running.get(loop, 0) + 1

    async def close(self) -> None:
        """Run ``teardown`` if ``setup`` was run; the last environment of a loop ends the sandbox that they share."""
        try:
            if self._started:
                self._started = False
                try:
                    await _resolved(self.cls.teardown(self._shared))
                finally:
                    await _leave_sandbox()
        finally:
            if self._own_watchdog:
                self.watchdog.close()

    def validate_row(self, row: Mapping[str, Any]) -> str | None:
        """Why the environment cannot run a row, or None: its ``Task`` fields and its own ``tools``."""
        if self._checks_task:
            try:
                self._task_validator.validate_python(row)
            except ValidationError as error:
                return _problems(error)
            except Exception as error:  # a validator of the author's own that crashed
                return crash_text("Task", error)
        params = row.get("responses_create_params")
        if isinstance(params, dict):
            tools = params.get("tools")
            if tools:
                if not isinstance(tools, list):
                    return "responses_create_params.tools is not a list"
                problem = self.tools.check_row_tools(tools)
                if problem is not None:
                    return f"responses_create_params.{problem}"
        return None

    def session(self, assignment: Assignment, models: Mapping[str, ModelClient] | None = None) -> LocalSession:
        """A fresh session for one attempt; ``models`` are the environment's own, by role.

        Never raises: a row that ``validate_row`` refuses makes ``seed`` and ``verify`` fail with "InvalidRow".
        """
        environment = self.cls.__new__(self.cls)
        usage: dict[str, dict[str, int]] = {}
        task = invalid = None
        try:
            task = self._task_validator.validate_python(assignment.row)
        except ValidationError as error:
            invalid = AgentError(f"the row does not fit the environment: {_problems(error)}", reason="InvalidRow")
        except Exception as error:  # a validator of the author's own that crashed
            invalid = AgentError(crash_text("Task", error), reason="InvalidRow")
        environment.config = self.config
        environment.task = task
        environment.row = assignment.row
        environment.shared = self._shared
        environment.models = ModelRoles(models or {}, assignment.rollout_id, usage)
        environment._identity = (assignment.task_id, assignment.rollout_index, assignment.rollout_id)
        return LocalSession(self, environment, usage, invalid)

    async def verify_group(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Verdicts for all rollouts of one task. Raises VerifierError, JudgeError."""
        label = "verify_group"
        try:
            verdicts = await self.hooks.run(label, self.limits.verify_seconds, None, self.cls.verify_group, rollouts)
            if not isinstance(verdicts, list | tuple) or len(verdicts) != len(rollouts):
                given = f"{len(verdicts)}" if isinstance(verdicts, list | tuple) else type(verdicts).__name__
                raise ValueError(f"returned {given} for {len(rollouts)} rollouts; return one Verdict each, in order")
        except Exception as error:
            raise verifier_error(label, error) from error
        for verdict in verdicts:
            check_verdict(label, verdict)
        return list(verdicts)

    async def oracle(self, row: dict[str, Any]) -> Any:
        """The class's perfect replies to a row. Raises NotImplementedError where it has none."""
        return await _resolved(self.cls.oracle(self._task_validator.validate_python(row)))

    @property
    def has_oracle(self) -> bool:
        """Whether the class knows perfect replies."""
        return _overrides(self.cls, "oracle")

    async def cheats(self, row: dict[str, Any]) -> Mapping[str, Any]:
        """The class's own tricks on a row, by name."""
        return await _resolved(self.cls.cheats(self._task_validator.validate_python(row)))

    @property
    def has_stand_ins(self) -> bool:
        """Whether the class plays the models of its roles itself in tests."""
        return _overrides(self.cls, "stand_in")

    def stand_in(self, role: str, row: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
        """A model of a role, for tests: from create-params to its text, by the class's ``stand_in``."""
        task = self._task_validator.validate_python(row)
        return lambda request: self.cls.stand_in(role, task, input_items(request["input"]))

    @property
    def has_metrics(self) -> bool:
        """Whether the class computes metrics of its own, for which rows must be kept until the end."""
        return _overrides(self.cls, "compute_metrics")

    @property
    def has_key_metrics(self) -> bool:
        """Whether the class chooses its headline numbers itself."""
        return _overrides(self.cls, "get_key_metrics")

    async def compute_metrics(self, tasks: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """The class's own metrics over the rows of each task (contract 2.4)."""
        return await _resolved(self.cls.compute_metrics(tasks))

    async def key_metrics(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The headline numbers out of all metrics."""
        return await _resolved(self.cls.get_key_metrics(metrics))


_running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()
"""How many started environments a loop has."""


async def _leave_sandbox() -> None:
    loop = asyncio.get_running_loop()
    _running[loop] -= 1
    if not _running[loop] and (shared := sys.modules.get("kubegym.sandbox.shared")) is not None:
        await shared.close_process_sandbox()


async def _resolved(value: MaybeAwaitable[T]) -> T:
    return await value if inspect.isawaitable(value) else value


def _overrides(cls: type, name: str, base: type = Environment) -> bool:
    def plain(owner: type) -> Any:
        method = getattr(owner, name)
        return getattr(method, "__func__", method)

    return plain(cls) is not plain(base)


def _valid_config(cls: type[Environment], config: dict[str, Any], name: str) -> Any:
    try:
        return cls.Config.model_validate(config)
    except ValidationError as error:
        raise InvalidSpec(f"environment {name}: config: {_problems(error, list(cls.Config.model_fields))}") from error


def _problems(error: ValidationError, known: Sequence[str] = ()) -> str:
    """All problems in one line, fields by path, with a guess at misspelt names."""
    texts = []
    for one in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in one["loc"])
        text = f"{path}: {one['msg']}" if path else one["msg"]
        if one["type"] == "extra_forbidden":
            text = f"{path}: unknown field"
            close = difflib.get_close_matches(path, known, n=1)
            text += f"; did you mean {close[0]}?" if close else f" (fields: {', '.join(known) or 'none'})"
        elif path and one["type"] != "missing":
            text += f", not {one['input']!r:.80}"
        texts.append(text)
    return "; ".join(texts)
