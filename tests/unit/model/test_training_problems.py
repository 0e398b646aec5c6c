"""The problems the shipped model learns from, and the text it sees."""

import ast
import random
import subprocess
import sys

import pytest

from kubegym.model.training import chat_format
from kubegym.model.training.problems import (
    FUNCTIONS,
    GUESS_HIGHEST,
    GUESS_TURNS,
    HIGHER,
    KINDS,
    Kind,
    Problem,
    Split,
    draw,
    held_out,
    reply_to_guess,
)

pytestmark = pytest.mark.unit


def drawn(kind: Kind, split: Split = "train", count: int = 300) -> list[Problem]:
    rng = random.Random(4)
    return [draw(rng, kind, split) for _ in range(count)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "guess"])
def test_no_held_out_problem_is_trained_on(kind: Kind) -> None:
    trained = {problem.key for problem in drawn(kind, "train")}
    tested = {problem.key for problem in drawn(kind, "test")}
    assert not any(map(held_out, trained))
    assert all(map(held_out, tested))
    assert trained
    assert tested


def test_the_split_never_moves() -> None:
    """The shipped weights were trained on this split; another one would leak."""
    sums = [f"{a}+{b}" for a in range(21) for b in range(21)]
    assert sum(map(held_out, sums)) == 39
    assert [key for key in sums if held_out(key)][:4] == ["0+4", "0+6", "0+7", "0+10"]


def test_the_same_seed_draws_the_same_problems() -> None:
    first, second = ([draw(rng) for _ in range(200)] for rng in (random.Random(8), random.Random(8)))
    assert first == second
    assert {problem.kind for problem in first} == set(KINDS)


@pytest.mark.parametrize("kind", ["direct", "tool", "chain"])
def test_the_answer_is_the_value_of_the_expression(kind: Kind) -> None:
    for problem in drawn(kind):
        value = eval(compile(ast.parse(problem.key, mode="eval"), "problem", "eval"))
        assert problem.answer == str(value)
        assert problem.key in problem.messages[-1]["content"]
        assert problem.trajectory[-1] == {"role": "assistant", "content": problem.answer}


@pytest.mark.parametrize(("kind", "calls"), [("tool", 1), ("chain", 2)])
def test_tool_results_follow_their_calls(kind: Kind, calls: int) -> None:
    for problem in drawn(kind):
        offered = {tool["function"]["name"] for tool in problem.tools}
        steps = problem.trajectory[:-1]
        assert len(steps) == 2 * calls
        for call, result in zip(steps[::2], steps[1::2], strict=True):
            function = call["tool_calls"][0]["function"]
            assert function["name"] in offered
            assert result["content"] == str(FUNCTIONS[function["name"]](*function["arguments"].values()))


def test_every_secret_is_found_in_time() -> None:
    found = set()
    for problem in drawn("guess", count=2000):
        guesses = [message for message in problem.trajectory if message["role"] == "assistant"]
        assert len(guesses) <= GUESS_TURNS
        assert guesses[-1]["content"] == problem.answer
        found.add(int(problem.answer))
    assert found == set(range(1, GUESS_HIGHEST + 1))


def test_reply_points_to_the_secret() -> None:
    assert reply_to_guess(secret=9, guess=4) == HIGHER != reply_to_guess(secret=4, guess=9)


def test_only_the_assistant_s_text_is_learned() -> None:
    for kind in KINDS:
        for problem in drawn(kind, count=20):
            conversation = problem.messages + problem.trajectory
            learned = [text for text, by_assistant in chat_format.render(conversation, problem.tools) if by_assistant]
            turns = [message for message in problem.trajectory if message["role"] == "assistant"]
            assert len(learned) == len(turns)
            for text, turn in zip(learned, turns, strict=True):
                assert text.startswith(turn["content"])
                assert text.endswith("<|im_end|>")
                assert ("<tool_call>" in text) == ("tool_calls" in turn)


def test_rendered_conversation() -> None:
    problem = next(p for p in drawn("tool") if len(p.messages) == 2 and len(p.tools) == 3)
    a, b = problem.trajectory[0]["tool_calls"][0]["function"]["arguments"].values()
    name = problem.trajectory[0]["tool_calls"][0]["function"]["name"]
    signatures = " ".join(f"{tool['function']['name']}(a,b)" for tool in problem.tools)
    assert "".join(text for text, _ in chat_format.render(problem.messages + problem.trajectory, problem.tools)) == (
        f"<|im_start|>system\n{problem.messages[0]['content']}\nTools: {signatures}<|im_end|>\n"
        f"<|im_start|>user\n{problem.messages[1]['content']}<|im_end|>\n"
        f'<|im_start|>assistant\n<tool_call>\n{{"name": "{name}", "arguments": {{"a": {a}, "b": {b}}}}}\n</tool_call>'
        "<|im_end|>\n"
        f"<|im_start|>user\n<tool_response>\n{problem.answer}\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\n{problem.answer}<|im_end|>\n"
    )


def test_problems_need_no_libraries() -> None:
    script = (
        "import sys; before = set(sys.modules); import kubegym.model.training.problems\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'kubegym'}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
