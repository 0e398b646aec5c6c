"""Errors of KubeGym and how they turn into outcomes.

Every error carries ``reason`` (CamelCase; the same word stands in ``failure.reason`` of a row and in the reason of a
Kubernetes condition) and ``retryable`` (whether trying again, unchanged, may help)::

    KubeGymError
    ├── InputError               what the user gave cannot be used; the CLI exits with 2 and prints no traceback
    │   ├── InvalidSpec          a manifest or flag
    │   ├── InvalidRows          dataset rows, each with source, line and reason
    │   ├── EnvironmentNotFound  no folder, no entry point of that name
    │   ├── PlanConflict         the output belongs to a different plan; names the fields that differ
    │   ├── OutputInUse          another live holder works on the output
    │   ├── ModelUnsuitable      a model cannot do what the rows need: images, a context of that size
    │   └── ConditionalWritesUnsupported   the store cannot do compare-and-swap
    ├── StoreError               object storage (storage/errors.py has the tree below it)
    ├── RunFailed                the run as a whole cannot go on (failure budget, model never reachable)
    └── RolloutError             one attempt of one rollout failed; becomes its ``failure``
        ├── ModelError           the model endpoint                         stage "model"
        ├── AgentError           the harness, deadlines                     stage "agent"
        ├── ToolFailed           a tool that broke (not: that refused)      stage "tool"
        ├── VerifierError        no verdict could be given                  stage "verifier"
        ├── JudgeError           a judge model gave no usable verdict       stage "judge"
        └── WorkerError          the process that ran it                    stage "worker"

``ToolError`` is not among them: it is what a tool *says to the model*, part of the conversation.
Only infrastructure is ``retryable``: never a length, a text or a reward (DESIGN 3.2). A crash in an environment's own
code is not: the same policy output would crash it again, and drawing until one does not would bias the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kubegym.core.outcomes import Failure, Stage


class KubeGymError(Exception):
    """Base of every error KubeGym raises on purpose."""

    reason: str = "Error"
    retryable: bool = False

    def __init__(self, message: str, *, reason: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable


class InputError(KubeGymError):
    """What the user gave cannot be used as it is."""

    reason = "InvalidInput"


class InvalidSpec(InputError):
    """A manifest or a flag says something that cannot be done."""

    reason = "InvalidSpec"


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One bad dataset row: where it stands (1-based line) and what is wrong."""

    source: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.message}"


class InvalidRows(InputError):
    """Dataset rows that cannot be run. Holds the first problems, 50 if nothing else is said, and the count of all."""

    reason = "InvalidRows"
    SHOWN: ClassVar[int] = 50

    def __init__(self, problems: Sequence[RowProblem], count: int, shown: int = SHOWN) -> None:
        self.problems = list(problems[:shown])
        self.count = count
        rows = "row is" if count == 1 else "rows are"
        lines = [f"{count} {rows} invalid; nothing was run", *(f"  {p}" for p in self.problems)]
        if count > len(self.problems):
            lines.append(f"  ... and {count - len(self.problems)} more")
        super().__init__("\n".join(lines))


class EnvironmentNotFound(InputError):
    """No environment folder or entry point has that name."""

    reason = "EnvironmentNotFound"


class PlanConflict(InputError):
    """The output already holds a different plan.

    Attributes:
        differences: field -> (value in the stored plan, value asked for).
    """

    reason = "PlanConflict"

    def __init__(self, output: str, differences: dict[str, tuple[object, object]]) -> None:
        self.differences = differences
        lines = "\n".join(f"  {name}: stored {old!r}, asked for {new!r}" for name, (old, new) in differences.items())
        super().__init__(
            f"{output} holds a run of a different plan; these fields differ:\n{lines}\n"
            "Use another output, or put the fields back to continue that run."
        )


class OutputInUse(InputError):
    """Another live holder works on this output."""

    reason = "OutputInUse"


class ModelUnsuitable(InputError):
    """A model cannot do what the run's rows need of it."""

    reason = "ModelUnsuitable"


class ConditionalWritesUnsupported(InputError):
    """The store does not honour conditional writes, on which exactly-once rests."""

    reason = "ConditionalWritesUnsupported"


class StoreError(KubeGymError):
    """Object storage could not do what was asked."""

    reason = "ObjectStoreUnavailable"
    retryable = True


class RunFailed(KubeGymError):
    """The run as a whole cannot go on; what is finished is saved."""

    reason = "RunFailed"


class RolloutError(KubeGymError):
    """One attempt of one rollout failed. Never a reward (DESIGN 3.2)."""

    stage: Stage = "worker"
    reason = "RolloutFailed"

    def failure(self, attempt: int) -> Failure:
        """The row's ``failure`` for this error."""
        return Failure(self.stage, self.reason, self.message, self.retryable, attempt)


class ModelError(RolloutError):
    """A model call that gave no usable reply.

    Attributes:
        status: HTTP status of the reply, where there was one.
        retry_after: seconds the endpoint asked to wait, where it did.
    """

    stage: Stage = "model"
    reason = "ModelError"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retryable: bool | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, retryable=retryable)
        self.status = status
        self.retry_after = retry_after


class AgentError(RolloutError):
    """The harness could not go on: a reply that breaks the contract, a deadline, a hook that crashed."""

    stage: Stage = "agent"
    reason = "AgentError"


class ToolFailed(RolloutError):
    """A tool broke (crashed, hung, was unreachable), as opposed to ``ToolError``, which answers the model."""

    stage: Stage = "tool"
    reason = "ToolCrashed"


class VerifierError(RolloutError):
    """No verdict could be given. Environments raise it from ``verify`` when scoring itself is in trouble."""

    stage: Stage = "verifier"
    reason = "VerifierError"


class JudgeError(RolloutError):
    """A judge model gave no usable verdict."""

    stage: Stage = "judge"
    reason = "JudgeError"


class WorkerError(RolloutError):
    """The process that ran the rollout died with it."""

    stage: Stage = "worker"
    reason = "WorkerCrashed"


class ToolError(Exception):
    """Raised by a tool to answer the model with an error text; the rollout goes on."""
