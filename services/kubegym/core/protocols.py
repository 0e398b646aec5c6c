"""The seams between agent, model, resources and rollout engine.

Each side depends on these, never on the other's internals; the local runner and the servers compose them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kubegym.core.clock import Deadline
from kubegym.core.errors import RolloutError
from kubegym.core.messages import Done, Item, Message, ToolOutput, Turn
from kubegym.core.outcomes import Failure, Outcome, StopReason
from kubegym.core.tokens import CallTokens, Runs, TokenRecord
from kubegym.core.trajectory import Rollout, Verdict


@dataclass(slots=True)
class CallContext:
    """Who asks a model, for seeds, routing and deadlines.

    Attributes:
        rollout_id: the rollout (and attempt) this call belongs to.
        deadline: the rollout's; a client excuses waits that are not the rollout's own.
        seed: the seed to send with this call, or None to send none.
        token_ids: whether the reply should come with token ids and log-probs.
        previous: the tokens of the conversation's call before, where they are known: the prompt is to continue them.
    """

    rollout_id: str
    deadline: Deadline
    seed: int | None = None
    token_ids: bool = False
    previous: CallTokens | None = None


@dataclass(slots=True)
class ModelReply:
    """A model's answer.

    Attributes:
        response: a Responses object (contract 1.4).
        policy_version: version of the weights that made it, the lowest of several, where the endpoint tells.
        policy_runs: of several versions, which made which of its generated tokens; else empty.
        seconds: time the call took, waits for capacity left out.
        waited: time spent in queues, 429 and 503 back-off.
        stop: why the reply is cut short, as far as the endpoint tells; None for a whole one.
        tokens: ids and log-probs of the call, where they were told. On the wire of the contract they are on the last
            output item (``core.tokens``).
    """

    response: dict[str, Any]
    policy_version: int | None = None
    seconds: float = 0.0
    waited: float = 0.0
    stop: StopReason | None = None
    tokens: CallTokens | None = None
    policy_runs: Runs = ()


class ModelClient(Protocol):
    """Text generation by role: one instance a model, shared by all rollouts."""

    model: str

    async def respond(self, request: dict[str, Any], context: CallContext) -> ModelReply:
        """Answer Responses create-params. Retries within its bounds. Raises ModelError."""
        ...

    def leave(self, rollout_id: str) -> None:
        """The rollout asks no more: what was kept for it may go. Not every caller says so."""
        ...

    async def close(self) -> None:
        """Give back connections or the engine."""
        ...


class Questions(Protocol):
    """A model client whose engine answers more than generation: what ``/pooling`` and the like say."""

    async def question(self, path: str, body: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
        """Ask a route of the engine.

        Args:
            path: ``pooling``, ``classify``, ``score``, ``v1/embeddings``.
            body: what the engine takes; the model's name is added.
            context: who asks.

        Raises:
            ModelError: no JSON object came back, after bounded retries.
        """
        ...


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A model call that a program made of itself: the items that it sent, and the reply."""

    input: list[Item]
    reply: ModelReply


@dataclass(frozen=True, slots=True)
class SeenCalls:
    """What a program asked the model, in order.

    Attributes:
        calls: that were answered.
        trouble: the last trouble of the model's that the program was told instead of an answer.
        refused: whether it asked more often than it may.
    """

    calls: list[SeenCall]
    trouble: RolloutError | None = None
    refused: bool = False


class ModelUrls(Protocol):
    """A base URL of a model for every rollout, for programs that know no more of it."""

    model: str

    def open(
        self, context: CallContext, *, max_calls: int | None = None, seeds: Callable[[int], int] | None = None
    ) -> str:
        """The rollout's base URL, without ``/v1``; ``seeds`` gives the seed of each call, from 0."""
        ...

    def shut(self, rollout_id: str) -> SeenCalls:
        """The rollout's program is over: its URL is no longer good. What it asked."""
        ...


class Session(Protocol):
    """One rollout's environment, in this process or behind HTTP.

    Every method raises RolloutError when the environment could not do its part.
    """

    multi_turn: bool
    """Whether ``respond`` answers assistant messages."""

    deadline: Deadline | None
    """The rollout's; who runs the attempt sets it before ``seed``. None outside of an attempt."""

    usage: dict[str, dict[str, int]]
    """What the environment's own models (judge, user, ...) used, by role (``core.usage``)."""

    async def seed(self) -> list[Item]:
        """Prepare the session; items to append to the row's input."""
        ...

    def tools(self) -> list[dict[str, Any]]:
        """Tool definitions (Responses shape) for a row that brings none of its own."""
        ...

    def parallel(self, name: str) -> bool:
        """Whether calls of this tool may run beside others of the same turn."""
        ...

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolOutput:
        """The tool's output. A refusal (ToolError, bad arguments, unknown tool) is output, too."""
        ...

    async def respond(self, turn: Turn) -> Message | Done:
        """The environment's reply to an assistant message without tool calls."""
        ...

    async def verify(self, rollout: Rollout) -> Verdict:
        """Score the conversation."""
        ...

    async def close(self) -> None:
        """Free what the session holds. Never raises for the session's own trouble."""
        ...


@dataclass(slots=True)
class Assignment:
    """One attempt to be made: a rollout of a task.

    Attributes:
        environment: name of the run's environment entry the row belongs to.
        row: the input row, as parsed.
        task_id: see ``core.ids.task_id``.
        task_index: the task's place in the run.
        rollout_index: which of the task's rollouts, from 0.
        attempt: from 0.
        rollout_id: see ``core.ids.rollout_id``.
    """

    environment: str
    row: dict[str, Any]
    task_id: str
    task_index: int
    rollout_index: int
    rollout_id: str
    attempt: int = 0


@dataclass(slots=True)
class Attempt:
    """How an attempt ended: everything the row needs beside the assignment.

    ``response`` is the contract's response object: on a failure what there was of it, or None. ``timing`` is in
    seconds, ``usage`` by role, ``turns`` one entry a model call. ``tokens`` are there where the model told them.
    ``left_behind``: the policy had moved on too far when it ended.
    """

    outcome: Outcome
    reward: float | None = None
    failure: Failure | None = None
    stop_reason: StopReason | None = None
    response: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    components: dict[str, float] = field(default_factory=dict)
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)
    seed: int | None = None
    tokens: TokenRecord | None = None
    left_behind: bool = False

    @property
    def stale(self) -> bool:
        """Whether it would be delivered but for its policy's age."""
        return self.left_behind and self.outcome != "failed"


@dataclass(frozen=True, slots=True)
class EnvironmentInfo:
    """What a row says of the environment that made it."""

    name: str
    version: str
    verifier: str
    verifier_version: str
    agent: str
    model: str


class Episodes(Protocol):
    """Runs attempts: agent, model and environment composed, for all entries of a run."""

    async def run(self, assignment: Assignment) -> Attempt:
        """Make one attempt. A failed attempt is a value; only cancellation is raised."""
        ...

    def info(self, environment: str) -> EnvironmentInfo:
        """Names and versions for the rows of an entry."""
        ...

    def verifies_groups(self, environment: str) -> bool:
        """Whether the entry has ``verify_group``, so that a group's rows wait for each other."""
        ...

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        """Replace the verdicts of a whole group's scored attempts, in place."""
        ...

    async def close(self) -> None:
        """Tear down environments and models."""
        ...
