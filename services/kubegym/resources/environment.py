"""The environment base class. One instance is one rollout's session; its attributes are the state."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from kubegym.core.ids import derive_seed
from kubegym.core.messages import Done, Item, Message, Turn
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.resources.models import Model, Row

if TYPE_CHECKING:
    from kubegym.resources.roles import ModelRoles
    from kubegym.sandbox import Sandbox

T = TypeVar("T")
MaybeAwaitable: TypeAlias = T | Awaitable[T]
"""What a hook may return: every hook is sync or async, as its author likes."""

_PER_PROCESS = ("shared", "models", "logger")


class Environment:
    """A task family: its tools, its conversation, its verdict.

    Subclass it, name the row's fields in ``Task``, write tools and ``verify``::

        class Capital(Environment):
            class Task(Row):
                expected: str

            def verify(self, rollout: Rollout) -> Verdict:
                return Verdict(float(self.task.expected in rollout.final_text))

    The runtime makes one instance a rollout and sets the attributes below before ``__init__`` (without arguments) and
    ``seed``. Hooks may be sync or async. Sync ones run on the event loop under a watchdog: keep them short, or mark
    them ``@offload``.

    Attributes:
        version: of the environment; stands in every row.
        verifier_version: of the verifier; ``version`` when empty. Change it when verdicts change.
        stateless_verify: whether ``verify`` needs nothing but the task and the rollout, so that stored rollouts can be
            verified again on a fresh instance.
        images: whether tools or ``respond`` show images, so that a model that sees none is refused before the run.
            Images in rows say that by themselves.
        answer_key: the verdict's field with the extracted answer, for majority@k and no_answer; empty for none.
        config: the manifest's ``config``, as ``Config``; the same for all rollouts.
        task: the row, as ``Task``.
        row: the row as it was parsed. Shared by all rollouts of the task: read it, never change it.
        shared: what ``setup`` returned.
        models: other models by role, see ``ModelRoles``.
        offered_tools: tool definitions (Responses shape) of this rollout; ``seed`` sets them where tools differ from
            task to task and a catch-all answers them. A row's own ``tools`` win.
    """

    version: ClassVar[str] = "0.1.0"
    verifier_version: ClassVar[str] = ""
    stateless_verify: ClassVar[bool] = False
    images: ClassVar[bool] = False
    answer_key: ClassVar[str] = ""

    Config: ClassVar[type[Model]] = Model
    """The manifest's ``config``: a nested ``class Config(Model)`` with your own fields."""
    Task: ClassVar[type[Row]] = Row
    """The row's fields: a nested ``class Task(Row)`` with your own."""

    config: Any
    task: Any
    row: dict[str, Any]
    shared: Any
    models: ModelRoles
    offered_tools: list[dict[str, Any]] | None = None
    _identity: tuple[str, int, str]

    @classmethod
    def setup(cls, config: Any) -> MaybeAwaitable[Any]:
        """Load what all sessions of this process share; it becomes ``self.shared``."""
        return None

    @classmethod
    def teardown(cls, shared: Any) -> MaybeAwaitable[None]:
        """Free what ``setup`` made."""

    def seed(self) -> MaybeAwaitable[list[Message] | None]:
        """Prepare the session. Messages returned are appended to the row's input."""
        return None

    def respond(self, turn: Turn) -> MaybeAwaitable[Message | Done]:
        """Answer an assistant message without tool calls; overriding it makes the environment multi-turn."""
        return Done()

    def verify(self, rollout: Rollout) -> MaybeAwaitable[Verdict]:
        """Score the conversation.

        Raise ``VerifierError`` when scoring itself is in trouble; ``Verdict(None)`` leaves the rollout unscored. An
        environment with ``verify_group`` alone leaves it to that.
        """
        return Verdict(None)

    @classmethod
    def verify_group(cls, rollouts: Sequence[Rollout]) -> MaybeAwaitable[list[Verdict]]:
        """Score all rollouts of one task together, in the same order, for rewards relative to each other."""
        raise NotImplementedError(f"{cls.__name__} has no verify_group")

    def close(self) -> MaybeAwaitable[None]:
        """Free what this session holds. Called once, however the rollout ended."""

    @classmethod
    def oracle(cls, task: Any) -> MaybeAwaitable[str | list[Any]]:
        """Perfect replies to a task, for tests: one text, or a list with one reply a turn.

        A reply is a text, a ``Message``, a function call ``{"name": ..., "arguments": {...}}``, or a list of those.
        """
        raise NotImplementedError(f"{cls.__name__} has no oracle")

    @classmethod
    def cheats(cls, task: Any) -> MaybeAwaitable[Mapping[str, str | list[Any]]]:
        """Replies that try to earn the reward without doing the task, by the trick's name, for ``--adversarial``.

        Agents that say nothing, always the same, what is right elsewhere, anything, or the question again are tried on
        every environment; here stand those that only its author knows. Replies are as of ``oracle``.
        """
        return {}

    @classmethod
    def stand_in(cls, role: str, task: Any, messages: Sequence[Item]) -> str:
        """What a model of a role (a judge, a user) says to ``messages`` in tests and adversarial runs.

        A stand-in does the role's job well by the task's own fields: a judge that knows the right answer, a user who
        wants what the task says. It is asked anew each time; what was said before stands in ``messages``.
        """
        raise NotImplementedError(f"{cls.__name__} has no stand-in for the role {role}")

    @classmethod
    def compute_metrics(cls, tasks: Sequence[Sequence[dict[str, Any]]]) -> MaybeAwaitable[dict[str, Any]]:
        """Metrics of your own: ``tasks`` holds the rows of each task, without responses (contract 2.4)."""
        return {}

    @classmethod
    def get_key_metrics(cls, metrics: dict[str, Any]) -> MaybeAwaitable[dict[str, Any]]:
        """The headline numbers out of all; the default is every ``mean/*`` (contract 2.4)."""
        return {name: value for name, value in metrics.items() if name.startswith("mean/")}

    @cached_property
    def rng(self) -> random.Random:
        """Random numbers of this rollout: the same at every attempt, different from the task's other rollouts."""
        task_id, rollout_index, _ = self._identity
        return random.Random(derive_seed(task_id, rollout_index))

    @cached_property
    def task_rng(self) -> random.Random:
        """Random numbers of this task: equal for all of its rollouts."""
        return random.Random(derive_seed(self._identity[0]))

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs with the rollout's id."""
        logger = logging.getLogger(f"kubegym.environments.{type(self).__name__}")
        return _RolloutLogger(logger, {"rollout_id": self._identity[2]})

    @property
    def sandbox(self) -> Sandbox:
        """Where code that nobody trusts runs: ``done = await self.sandbox.run(code, stdin=...)``.

        On this machine, or in pods of their own where the manifest says ``resources.sandbox``. What the program did is
        data in the ``Execution``; ``SandboxError`` means that the sandbox could not do its part, and fails the attempt.
        """
        from kubegym.sandbox.shared import process_sandbox

        return process_sandbox()

    def __getstate__(self) -> dict[str, Any]:
        """The state that travels to a process of ``@offload``: all attributes but those bound to this process."""
        return {name: value for name, value in self.__dict__.items() if name not in _PER_PROCESS}

    if not TYPE_CHECKING:  # for a type checker, a name that does not exist stays an error

        def __getattr__(self, name: str) -> Any:
            """Say why what stays behind in the parent process is missing here."""
            if name in _PER_PROCESS:
                raise AttributeError(f"self.{name} is not available in an @offload method; pass it what it needs")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _RolloutLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the rollout's id and keeps the ``extra`` of the call."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
