"""The published shape of a rollout row. A new field changes these files, on purpose."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo
from kubegym.core.rows import build_row
from kubegym.data.schema import RolloutRow, schema_text

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "reference" / "row.schema.json"
RUN = "0123456789abcdef0123456789abcdef"
INFO = EnvironmentInfo("arithmetic", "1.2.0", "arithmetic", "3", "arithmetic_simple_agent", "policy")
ROW = {
    "responses_create_params": {"input": "What is 6*7?"},
    "expected_answer": 42,
    "note": {"unknown": ["fields", "are", "echoed"]},
}
PARAMS = {"input": [{"role": "user", "content": "What is 6*7?"}], "temperature": 1.0, "max_output_tokens": 64}


def scored() -> dict[str, Any]:
    attempt = Attempt(
        "scored",
        reward=1.0,
        stop_reason="completed",
        response={
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "policy",
            "status": "completed",
            "output": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "42", "annotations": []}],
                }
            ],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 12,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 15,
            },
        },
        params=PARAMS,
        fields={"answer": 42, "steps": 1.0},
        components={"format": 0.25, "answer_right": 0.75},
        usage={
            "policy": {
                "calls": 1,
                "input_tokens": 12,
                "output_tokens": 3,
                "cached_tokens": 0,
                "reasoning_tokens": 0,
            }
        },
        timing={"queue": 0.0, "model": 0.5, "tool": 0.0, "verify": 0.25, "total": 0.75},
        turns=[{"policy_version": 7, "reward": None}],
        seed=1234,
    )
    return build_row(Assignment("math", ROW, "a" * 32, 17, 3, "01234567-17-3", 0), attempt, INFO, RUN)


def failed() -> dict[str, Any]:
    attempt = Attempt(
        "failed",
        failure=Failure("model", "ModelUnreachable", "no answer from http://127.0.0.1/v1", True, 1),
        usage={},
        timing={"queue": 1.5, "model": 0.0, "tool": 0.0, "verify": 0.0, "total": 0.0},
    )
    row = {**ROW, "agent_ref": {"type": "responses_api_agents", "name": "other_agent"}, "_ng_task_index": 90}
    return build_row(Assignment("math", row, "b" * 32, 2, 0, "01234567-2-0-a1", 1), attempt, INFO, RUN)


@pytest.mark.parametrize("build", [scored, failed])
def test_a_row_is_what_is_published(build: Any, golden: Any) -> None:
    golden.check(
        f"{build.__name__}.json", orjson.dumps(build(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


def undescribed(model: BaseModel, path: str = "") -> list[str]:
    """Fields a model let pass without knowing them."""
    found = [f"{path}{name}" for name in model.model_extra or {}]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for inner in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
            if isinstance(inner, BaseModel):
                found += undescribed(inner, f"{path}{name}.")
    return found


@pytest.mark.parametrize("build", [scored, failed])
def test_a_row_fits_the_schema_and_the_schema_describes_all_of_it(build: Any) -> None:
    row = RolloutRow.model_validate_json(orjson.dumps(build()))
    assert undescribed(row.kubegym) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outcome",), "fine"),
        (("stop_reason",), "tired"),
        (("schema",), 2),
        (("timing", "model"), "1s"),
        (("usage",), {"policy": {"calls": -1}}),
        (("turns",), [{"policy_version": "7"}]),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    row = scored()
    place = row["kubegym"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        RolloutRow.model_validate_json(orjson.dumps(row))


def test_the_committed_schema_is_the_generated_one() -> None:
    assert SCHEMA.read_text() == schema_text(), f"python -m kubegym.data.schema > {SCHEMA.name}"
