"""Names of children."""

from __future__ import annotations

import pytest

from kubegym_operator.build import names


def test_names_read_as_owner_and_component() -> None:
    assert names.model_server("math", "judge") == "math-judge"
    assert names.agent("math") == "math-agent"
    assert names.pods(names.resources("math")) == "math-resources-pods"
    assert [names.job("run", number) for number in (1, 2, 12)] == ["run", "run-2", "run-12"]
    assert names.finaliser("run") == "run-finalise"
    assert names.url("math-agent", "team", 8001) == "http://math-agent.team.svc:8001"


@pytest.mark.parametrize("role", ["agent", "resources", "session", "x-pods", "fetch"])
def test_a_role_that_reads_as_another_child_is_closed_by_a_hash(role: str) -> None:
    name = names.model_server("math", role)
    assert name.startswith(f"math-{role}-")
    assert len(name) == len(f"math-{role}-") + 8


def test_roles_that_differ_in_what_a_name_cannot_say_are_told_apart() -> None:
    assert len({names.model_server("math", role) for role in ("a-b", "a_b")}) == 2
    assert len({names.volume("model", role) for role in ("a-b", "a_b")}) == 2


def test_long_names_are_cut_and_stay_apart() -> None:
    environment = "e" * 40
    made = {names.model_server(environment, f"{'r' * 30}{number}") for number in range(3)}
    assert len(made) == 3
    assert {len(name) for name in made} == {names.MAX_OWNER}
    assert names.joined("a" * 62, "b") != names.joined("a" * 62, "c")
    assert len(names.joined("a" * 62, "b")) == names.MAX_LABEL


def test_a_cut_name_does_not_end_in_two_dashes() -> None:
    assert "--" not in names.joined("a" * 53 + "-" + "b" * 20, "c")
