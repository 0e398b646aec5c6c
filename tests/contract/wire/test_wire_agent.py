"""The agent server's part of the contract (1.3, 1.7), over our resources servers and others'."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.wire_client import Answer, Target
from testbed.wire_targets import script

pytestmark = pytest.mark.contract

TOOL = {
    "type": "function",
    "name": "increment_counter",
    "description": "",
    "strict": None,
    "parameters": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]},
}
OURS = {"x-kubegym-wire": "1"}


def run(agent: Target, *steps: Any, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    row = {**agent.row, **fields}
    if steps:
        row["responses_create_params"] = {"input": script(*steps), "tools": [TOOL]}
    return agent.wire().post("/run", row, headers)


# Every agent of the contract


def test_run_answers_params_response_and_reward(agent: Target) -> None:
    reply = agent.wire().post("/run", agent.row)
    assert reply.status == 200
    result = reply.json()
    assert result["reward"] == 1.0
    assert result["responses_create_params"]["input"]
    assert result["response"]["object"] == "response"
    assert all("type" in item for item in result["response"]["output"])


def test_indices_may_be_absent_or_null(agent: Target) -> None:
    names = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "_ng_rollout_id", "agent_ref", "skills_ref")
    bare = {name: value for name, value in agent.row.items() if name not in names}
    assert agent.wire().post("/run", bare).json()["reward"] == 1.0
    assert agent.wire().post("/run", {**bare, **dict.fromkeys(names)}).json()["reward"] == 1.0


# Ours, whatever resources server is behind it


def test_fields_of_row_and_verifier_come_back(our_agent: Target) -> None:
    result = run(our_agent, [["increment_counter", {"count": 2}]], "done", expected_count=5).json()
    assert result["reward"] == 1.0
    assert result["final_value"] == 5
    assert result["mine"] == {"kept": [1, None, "ä"]}
    assert (result["_ng_task_index"], result["_ng_rollout_index"]) == (7, 2)
    assert result["kubegym"]["rollout_id"] == "7-2"
    assert result["kubegym"]["outcome"] == "scored"
    kinds = [item["type"] for item in result["response"]["output"]]
    assert kinds == ["function_call", "function_call_output", "message"]


def test_the_usage_is_of_all_calls(our_agent: Target) -> None:
    one = run(our_agent, "done").json()["response"]["usage"]
    two = run(our_agent, [["increment_counter", {"count": 0}]], "done").json()["response"]["usage"]
    assert two["input_tokens"] > one["input_tokens"]
    assert two["total_tokens"] == two["input_tokens"] + two["output_tokens"]


def test_bad_arguments_and_unknown_tools_go_to_the_model(our_agent: Target) -> None:
    calls = [["increment_counter", {"count": "two"}]], [["increment_counter", "{"]], [["no_such_tool", {}]]
    result = run(our_agent, *calls, "done").json()
    outputs = [item["output"] for item in result["response"]["output"] if item["type"] == "function_call_output"]
    assert result["reward"] == 1.0
    assert "count" in outputs[0]
    assert outputs[1]
    assert outputs[2] == '{"detail":"Not Found"}'


@pytest.mark.parametrize("name", ["verify", "seed_session", "close", "reset", "mcp", "aggregate_metrics", "../verify"])
def test_the_policy_cannot_call_the_contract_s_routes(our_agent: Target, name: str) -> None:
    result = run(our_agent, [[name, {"reward": 1.0}]], "done", expected_count=3).json()
    outputs = [item["output"] for item in result["response"]["output"] if item["type"] == "function_call_output"]
    assert outputs == ['{"detail":"Not Found"}']
    assert result["reward"] == 1.0


@pytest.mark.parametrize(
    ("prefix", "fields", "identity"),
    [
        ("", {"_ng_task_index": 4, "_ng_rollout_index": 1}, "4-1"),
        ("", {"_ng_attempt_index": 2}, "7-2-a2"),
        ("", {"_ng_rollout_id": "mine"}, "mine"),
        ("/ng-rollout/other", {}, "other"),
        ("/ng-rollout/other/training-token-capture", {}, "other"),
    ],
)
def test_a_rollout_s_identity(our_agent: Target, prefix: str, fields: dict[str, Any], identity: str) -> None:
    result = our_agent.wire().post(f"{prefix}/run", {**our_agent.row, **fields}).json()
    assert result["kubegym"]["rollout_id"] == identity


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"responses_create_params": {"input": "x", "unheard_of": 1}}, "unheard_of"),
        ({"responses_create_params": "x"}, "responses_create_params"),
        ({"responses_create_params": None}, "responses_create_params"),
        ({"responses_create_params": {"input": 5}}, "input"),
        ({"_ng_task_index": "four"}, "_ng_task_index"),
        ({"_ng_rollout_index": -1}, "_ng_rollout_index"),
        ({"_ng_rollout_id": "../x"}, "_ng_rollout_id"),
    ],
)
def test_rows_that_are_none(our_agent: Target, change: dict[str, Any], where: str) -> None:
    reply = our_agent.wire().post("/run", {**our_agent.row, **change})
    assert reply.status == 422
    assert where in reply.json()["detail"][0]["loc"]


def test_params_are_required(our_agent: Target) -> None:
    reply = our_agent.wire().post("/run", {"expected_count": 3})
    assert reply.status == 422
    (problem,) = reply.json()["detail"]
    assert (problem["type"], problem["loc"]) == ("missing", ["body", "responses_create_params"])


@pytest.mark.parametrize(
    ("verdict", "kind", "terminal", "reason"),
    [
        ("decline", "unscored", True, None),
        ("crash", "verifier_error", True, "VerifierCrashed"),
        ("busy", "verifier_error", False, None),
    ],
)
def test_no_reward_is_null_for_us_and_marked_for_others(
    our_agent: Target, verdict: str, kind: str, terminal: bool, reason: str | None
) -> None:
    theirs = run(our_agent, verdict=verdict).json()
    assert theirs["reward"] == 0.0
    assert theirs["mask_sample"] is True
    assert theirs["_ng_failure_class"] == kind
    assert theirs.get("_ng_failure_terminal", False) is terminal
    assert theirs["response"]["object"] == "response"
    ours = run(our_agent, headers=OURS, verdict=verdict).json()
    assert ours["reward"] is None
    assert ours["kubegym"]["outcome"] == ("unscored" if kind == "unscored" else "failed")
    if reason is not None:
        assert ours["kubegym"]["failure"]["reason"] == reason
        assert ours["kubegym"]["failure"]["stage"] == "verifier"


def test_a_crashed_tool_fails_the_attempt(our_agent: Target) -> None:
    result = run(our_agent, [["crash", {}]], "done", headers=OURS).json()
    assert result["reward"] is None
    failure = result["kubegym"]["failure"]
    assert (failure["stage"], failure["reason"], failure["retryable"]) == ("tool", "ToolCrashed", False)


def test_components_and_their_copies(our_agent: Target) -> None:
    result = run(our_agent, verdict="components").json()
    assert result["reward_components"] == {"right": 1.0, "polite": 0.5}
    assert (result["right"], result["polite"]) == (1.0, 0.5)


def test_turns_of_the_environment(our_agent: Target) -> None:
    result = run(our_agent, "one", "two", "three", turns=2).json()
    texts = [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
        for item in result["response"]["output"]
    ]
    assert texts == ["one", "again 1", "two", "again 2", "three"]
    assert result["reward"] == 1.0


def test_a_deadline_is_kept(our_agent: Target) -> None:
    result = run(our_agent, [["wait", {"seconds": 3000}]], "done", headers={**OURS, "x-kubegym-deadline": "1"}).json()
    assert result["kubegym"]["failure"]["reason"] == "DeadlineExceeded"
    for header in ("soon", "0", "-1", "nan"):
        assert our_agent.wire().post("/run", our_agent.row, {"x-kubegym-deadline": header}).status == 422


def test_responses_goes_on_with_a_session_and_hands_it_back(our_agent: Target, fleet: Any) -> None:
    # As NeMo Gym's agents call themselves: seed, then /v1/responses with those cookies, then /verify with its cookies.
    wire = our_agent.wire()
    servers = {"agent": "resources", "agent-over-replicas": "replicas"}
    name = next(name for name in servers if fleet.url(name) == our_agent.url)
    environment = our_agent.wire()
    environment.url = fleet.url(servers[name])
    row = {**our_agent.row, "expected_count": 5}
    assert environment.post("/seed_session", row).status == 200
    wire.cookies = environment.cookies
    params = {"input": script([["increment_counter", {"count": 2}]], "done"), "tools": [TOOL]}
    reply = wire.post("/v1/responses", params)
    assert reply.status == 200
    response = reply.json()
    assert (response["object"], response["output"][-1]["type"]) == ("response", "message")
    assert reply.set_cookies().keys() >= environment.cookies.keys()
    environment.cookies = dict(reply.set_cookies())
    assert environment.post("/verify", {**row, "response": response}).json()["reward"] == 1.0


def test_responses_refuses_what_is_no_param(our_agent: Target) -> None:
    wire = our_agent.wire()
    assert wire.post("/v1/responses", {"input": "x", "unheard_of": 1}).status == 422
    assert wire.post("/v1/responses", {"tools": []}).status == 422


def test_metrics_over_rollouts(our_agent: Target) -> None:
    rows = [run(our_agent, expected_count=count, _ng_task_index=0).json() for count in (3, 4)]
    reply = our_agent.wire().post("/aggregate_metrics", {"verify_responses": rows})
    assert reply.status == 200
    metrics = reply.json()
    assert {"group_level_metrics", "agent_metrics", "key_metrics"} <= metrics.keys()
    assert metrics["agent_metrics"]["mean/reward"] == 0.5
    assert len(metrics["group_level_metrics"]) == 1
