"""The Python session over several calls, and what counts as the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import InvalidRows, Played, load_environment, play

pytestmark = pytest.mark.contract

MATH = load_environment(Path(__file__).resolve().parents[1]).cls
PARITY = {"parity": "nemo-gym"}


def python(code: str) -> dict[str, Any]:
    return {"name": "execute_python", "arguments": {"code": code}}


def answered(expected: str, *replies: Any, config: dict[str, Any] | None = None) -> Played:
    return play(MATH, {"expected_result": expected}, list(replies), config)


def told(played: Played) -> list[dict[str, Any]]:
    return [json.loads(output) for output in played.tool_outputs]


def test_variables_are_kept_until_the_session_ends() -> None:
    first, second, ended, third = told(
        answered(
            "8",
            python("x = 7\nprint('set')"),
            python("x += 1\nx"),
            {"name": "end_session", "arguments": {}},
            python("print(x)"),
            "\\boxed{8}",
        )
    )
    assert (first["stdout"], first["result"], first["success"]) == ("set\n", None, True)
    assert (second["stdout"], second["result"]) == ("", "8")
    assert ended["success"]
    assert not third["success"]
    assert third["error_message"] == "NameError: name 'x' is not defined"


def test_a_program_that_ends_or_computes_for_ever_takes_its_session_along_and_not_the_rollout() -> None:
    played = answered(
        "1",
        python("x = 1\nimport os\nos._exit(3)"),
        python("print('x' in globals())"),
        python("while True: pass"),
        python("print(2 + 3)"),
        "\\boxed{1}",
        config={"max_execution_time": 60.0, "session_cpu_seconds": 1.0},
    )
    _, second, third, fourth = told(played)
    assert second["stdout"] == "False\n"
    assert third["error_message"].startswith("stopped by its limit: ")
    assert fourth["stdout"] == "5\n"
    assert played.reward == 1.0


def test_the_session_has_numpy_and_no_way_to_the_answer() -> None:
    numpy, files = told(
        answered("1", python("print(int(np.arange(5).sum()))"), python("print(open('/etc/shadow').read())"), "no")
    )
    assert numpy["stdout"] == "10\n"
    assert not files["success"]


@pytest.mark.parametrize(
    ("expected", "reply", "config", "reward"),
    [
        ("42", "so \\boxed{42}", None, 1.0),
        ("42", "\\boxed{42.0}", None, 1.0),
        ("42", "\\boxed{7} or \\boxed{42}", None, 1.0),
        ("42", "\\boxed{42} or \\boxed{7}", None, 0.0),
        ("42", "42", None, 0.0),
        ("\\(1/3\\)", "\\boxed{1/3}", None, 1.0),
        ("$0.5$", "\\boxed{.5}", None, 1.0),
        ("1/2", "\\boxed{0.5}", None, 1.0),
        ("1/2", "\\boxed{0.5}", PARITY, 0.0),
        ("1e-9", "\\boxed{0}", None, 0.0),
        ("1e-9", "\\boxed{0}", PARITY, 1.0),
        ("\\text{yes}", "\\boxed{yes}", None, 1.0),
        ("1000000", "\\boxed{1000000.5}", None, 1.0),
        ("nan", "\\boxed{nan}", PARITY, 1.0),
    ],
)
def test_the_result_is_compared_as_text_then_as_a_number(
    expected: str, reply: str, config: dict[str, Any] | None, reward: float
) -> None:
    assert answered(expected, reply, config=config).reward == reward


def test_a_box_that_code_prints_counts_for_nemo_gym_alone() -> None:
    replies = (python("print('\\\\boxed{42}')"), "It is printed above.")
    assert answered("42", *replies).reward == 0.0
    played = answered("42", *replies, config=PARITY)
    assert (played.reward, played.fields["extracted_answer"]) == (1.0, "42")
    earlier = ("\\boxed{42} it may be", python("print('\\\\boxed{7}')"))
    assert answered("42", [earlier[0], earlier[1]], "That was it.", config=PARITY).reward == 1.0


def test_a_row_without_a_result_is_refused() -> None:
    with pytest.raises(InvalidRows, match="expected_result is empty"):
        answered(" ", "1")
