"""The rollout row as typed models, and its JSON Schema (contract 2.3, DESIGN section 6 "Files").

``python -m kubegym.data.schema`` prints the schema; docs/reference/row.schema.json is that output. The models describe
and check rows where speed does not matter (tests, ``kubegym validate``); the engine writes plain dicts.

Fields are only added within a schema number, so readers must let unknown ones pass, as these models do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from kubegym.core.outcomes import Outcome, Stage, StopReason

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)


class AgentRef(_Open):
    """The agent that ran the rollout."""

    type: str | None = Field(None, description="responses_api_agents")
    name: str


class NameVersion(_Open):
    """A named, versioned part."""

    name: str
    version: str


class FailureRecord(_Open):
    """Why the attempt has no reward."""

    stage: Stage = Field(description="Where it failed.")
    reason: str = Field(description="One CamelCase word, from an open list.", pattern=r"^[A-Z][A-Za-z0-9]*$")
    message: str
    retryable: bool = Field(description="Whether trying again, unchanged, may help: infrastructure only.")
    attempt: Count = Field(description="The attempt that failed, from 0.")


class Policy(_Open):
    """The policy model."""

    model: str
    versions: list[int] = Field(description="Versions of its weights that wrote any turn, ascending.")


class RoleUsage(_Open):
    """Calls and tokens of one model role."""

    calls: Count = 0
    input_tokens: Count = Field(0, description="Over all calls: a prompt counts in every turn.")
    output_tokens: Count = 0
    cached_tokens: Count = Field(0, description="Input tokens the endpoint had cached, as far as it tells.")
    reasoning_tokens: Count = Field(0, description="Output tokens of reasoning, as far as the endpoint tells.")


class Timing(_Open):
    """Where the attempt's time went, in seconds."""

    queue: Seconds = Field(0, description="Waiting for capacity; does not count against the deadline.")
    model: Seconds = 0
    tool: Seconds = 0
    verify: Seconds = 0
    total: Seconds = 0


class PolicyRun(_Open):
    """A stretch of a turn written by one version of the weights."""

    version: int
    from_token: Count


class TurnRecord(_Open):
    """One model call."""

    policy_version: int | None = Field(None, description="The lowest, where a turn spans several.")
    policy_runs: list[PolicyRun] | None = Field(None, description="Only where a turn spans several versions.")
    reward: float | None = Field(None, description="The turn's own reward, where the verifier gave one.")


class SamplesRef(_Open):
    """Where the rollout's token data lies."""

    part: str = Field(description="Key of the Arrow file.")
    rows: tuple[Count, Count] = Field(description="First record and number of records.", strict=False)


class KubeGymRecord(_Open):
    """What KubeGym knows of the rollout."""

    schema_number: Literal[1] = Field(alias="schema", description="Fields are only added within a number.")
    run_id: str = Field(description="32 hex digits; every resume of a run has the same.")
    rollout_id: str = Field(description="<run8>-<task index>-<rollout index>, and -a<n> for a further attempt.")
    task_id: str = Field(description="Equal for the same row of the same environment in every run.")
    task_index: Count = Field(description="The task's place in the run.")
    environment: NameVersion
    verifier: NameVersion
    attempt: Count = Field(description="From 0.")
    outcome: Outcome = Field(
        description="scored: a verifier gave a number; unscored: it gave none; failed: see failure."
    )
    failure: FailureRecord | None = Field(description="Set where, and only where, the outcome is failed.")
    stop_reason: StopReason | None = Field(description="Why the conversation ended; null if it did not.")
    seed: int | None = Field(description="The rollout's seed; null if none was sent.")
    policy: Policy
    usage: dict[str, RoleUsage] = Field(description="By model role: policy, judge, ...")
    timing: Timing
    turns: list[TurnRecord] = Field(description="One a model call of the policy, in order.")
    samples_ref: SamplesRef | None
    stale: bool = Field(description="Whether the policy had moved on too far when the rollout ended.")


class RolloutRow(_Open):
    """A rollout row. Fields of the input row that are unknown here are echoed; a verdict's fields are added."""

    responses_create_params: dict[str, Any] = Field(description="What was asked, after overrides.")
    response: dict[str, Any] | None = Field(description="The Responses object; on a failure what there was of it.")
    reward: float | None = Field(description="Null unless a verifier gave it.")
    reward_components: dict[str, float] | None = Field(
        None, description="Named parts of the reward; each stands at the top level, too."
    )
    task_index: Count = Field(alias="_ng_task_index", description="The task, as NeMo Gym numbers it.")
    rollout_index: Count = Field(alias="_ng_rollout_index", description="Which of the task's rollouts, from 0.")
    attempt_index: Count | None = Field(None, alias="_ng_attempt_index", description="Only for a further attempt.")
    failure_class: str | None = Field(
        None,
        alias="_ng_failure_class",
        description="Only in rollouts_failures.jsonl: judge_failed, <stage>_error, unscored.",
    )
    failure_terminal: bool | None = Field(
        None, alias="_ng_failure_terminal", description="Only in rollouts_failures.jsonl: will not be tried again."
    )
    mask_sample: bool | None = Field(None, description="True: leave it out of training.")
    agent_ref: AgentRef
    kubegym: KubeGymRecord


def row_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a rollout row."""
    schema = RolloutRow.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://kubegym.dev/schemas/row-1.json",
        **schema,
    }


def schema_text() -> str:
    """The committed file's text."""
    return orjson.dumps(row_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


if __name__ == "__main__":
    print(schema_text(), end="")
