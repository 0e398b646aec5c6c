"""What docs/verification.md shows: the pieces are put into environments, and played."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import kubegym
from kubegym import Environment
from kubegym.testing import play, play_group
from kubegym.verify import symbolic
from kubegym.verify.judge import Judge
from kubegym.verify.programs import Case, run_tests
from kubegym.verify.reward_model import conversation, score
from kubegym.verify.rewards import ramp, ranked, weighted
from kubegym.verify.text import boxed, fenced

pytestmark = pytest.mark.contract

PAGE = (Path(__file__).resolve().parents[3] / "docs/verification.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAMES: dict[str, Any] = {
    **{name: getattr(kubegym, name) for name in ("Environment", "Model", "Rollout", "Verdict")},
    **{"Case": Case, "Judge": Judge, "Sequence": Sequence, "boxed": boxed, "conversation": conversation},
    **{"fenced": fenced, "ramp": ramp, "ranked": ranked, "run_tests": run_tests, "score": score},
    **{"symbolic": symbolic, "weighted": weighted},
}


def shown(words: str) -> type[Environment]:
    """The environment that a block, found by some of its words, is or belongs into."""
    (block,) = (block for block in BLOCKS if words in block)
    if not block.startswith("class "):
        block = "class Shown(Environment):\n" + textwrap.indent(block, "    ")
    namespace: dict[str, Any] = dict(NAMES)
    exec("from __future__ import annotations\n" + block, namespace)
    row = type(
        "Task", (kubegym.Row,), {"__annotations__": {"expected": str, "tests": list}, "expected": "", "tests": []}
    )
    found: type[Environment] = next(
        value
        for name, value in namespace.items()
        if name not in NAMES and isinstance(value, type) and issubclass(value, Environment)
    )
    found.Task = row
    return found


def test_the_first_block_holds() -> None:
    exec(BLOCKS[0], {})


def test_symbolic_math() -> None:
    played = play(shown("symbolic.compare"), {"expected": "1/2"}, ["\\boxed{0.5}"])
    assert (played.reward, played.fields["stopped"]) == (1.0, False)
    assert play(shown("symbolic.compare"), {"expected": "1/2"}, ["0.5"]).reward == 0.0


def test_code() -> None:
    row = {"tests": [["1 2", "3"], ["2 2", "4"]]}
    code = "```\na, b = map(int, input().split())\nprint(a + b if a == 1 else 0)\n```"
    assert play(shown("run_tests"), row, [code]).reward == 0.5


def test_a_judge() -> None:
    assert play(shown("class Polite"), {}, ["Please."], models={"judge": ["Yes: [[yes]]"]}).reward == 1.0
    assert play(shown("class Polite"), {}, ["Please."], models={"judge": ["Well."]}).reward is None


def test_several_rewards() -> None:
    assert play(shown("weighted("), {"expected": "a"}, ["a"]).reward == pytest.approx(1.2)
    assert play(shown("weighted("), {"expected": "a"}, ["b"]).reward == 0.0


def test_relative_rewards() -> None:
    played = play_group(shown("verify_group"), {}, [["long answer"], ["short"], ["a longer answer"]])
    assert [one.reward for one in played] == [0.5, 1.0, 0.0]
