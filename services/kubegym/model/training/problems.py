"""The toy tasks the shipped model is trained on, and the split that is held out from training.

Standard library only: environments and tests draw their problems from here, so they ask with the words the model knows
and score it on problems it has never seen.
"""

from __future__ import annotations

import operator
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Chat = dict[str, Any]
"""A chat message or tool definition in the shape of OpenAI's chat completions."""
Kind = Literal["direct", "choice", "tool", "chain", "guess"]
Split = Literal["train", "test"]

KINDS: dict[Kind, float] = {"direct": 0.50, "choice": 0.05, "tool": 0.20, "chain": 0.15, "guess": 0.10}
"""Each kind's share of the training mixture."""

PHRASINGS = (
    "What is {e}? Answer with a number.",
    "Compute {e}. Answer with a number.",
    "{e} = ?",
    "Calculate {e}.",
)
"""How a problem is asked; ``{e}`` is the expression without spaces, such as ``7+18``."""

SYSTEM_PROMPTS = (None, None, "You are a helpful assistant.", "You are a calculator.")
"""Drawn evenly, so half of all problems have no system message."""

GUESS_PROMPT = "Guess my number between 1 and 63."
GUESS_HIGHEST = 63
GUESS_TURNS = 6
"""Halving the range finds every number from 1 to 63 in at most six guesses."""
HIGHER, LOWER = "higher", "lower"

TOOL_OF_OPERATOR = {"+": "add", "-": "subtract", "*": "multiply"}
FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
}


def _tool(name: str, description: str, parameters: tuple[str, ...], json_type: str) -> Chat:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {parameter: {"type": json_type} for parameter in parameters},
                "required": list(parameters),
            },
        },
    }


TOOLS = (
    _tool("add", "Add two integers.", ("a", "b"), "integer"),
    _tool("subtract", "Subtract b from a.", ("a", "b"), "integer"),
    _tool("multiply", "Multiply two integers.", ("a", "b"), "integer"),
)
DISTRACTORS = (
    _tool("get_weather", "Weather in a city.", ("city",), "string"),
    _tool("search", "Search the web.", ("query",), "string"),
)
"""Tools that are sometimes offered and never right."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A task with its reference solution.

    Attributes:
        kind: which generator made it.
        key: what decides the split: the expression, the whole question, or the secret.
        messages: the prompt.
        answer: the final assistant text that earns the reward.
        trajectory: the messages of a perfect rollout that follow the prompt, tool results and replies included.
        tools: the tools offered; empty for kinds without tools.
    """

    kind: Kind
    key: str
    messages: list[Chat]
    answer: str
    trajectory: list[Chat]
    tools: list[Chat] = field(default_factory=list)


def held_out(key: str) -> bool:
    """Whether problems of this key are kept out of training: one in ten, by a checksum and so stable for ever.

    ``direct`` and ``tool`` share keys (``7+18``), so an expression held out from one is held out from both. The kind
    ``guess`` has no held-out part: 63 secrets are a policy to learn, not facts to generalise from.
    """
    return zlib.crc32(key.encode()) % 10 == 0


def draw(rng: random.Random, kind: Kind | None = None, split: Split = "train") -> Problem:
    """Draw a problem of ``split``; of the training mixture's kinds unless ``kind`` says which."""
    while True:
        chosen = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
        problem = _GENERATORS[chosen](rng)
        if chosen == "guess" or held_out(problem.key) == (split == "test"):
            return problem


def reply_to_guess(secret: int, guess: int) -> str:
    """What the guessing game answers to a wrong guess."""
    return HIGHER if secret > guess else LOWER


def _assistant(content: str) -> Chat:
    return {"role": "assistant", "content": content}


def _call(name: str, a: int, b: int) -> Chat:
    function = {"name": name, "arguments": {"a": a, "b": b}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def _tool_result(value: int) -> Chat:
    return {"role": "tool", "content": str(value)}


def _question(rng: random.Random, expression: str) -> list[Chat]:
    system = rng.choice(SYSTEM_PROMPTS)
    prompt: list[Chat] = [{"role": "system", "content": system}] if system else []
    return [*prompt, {"role": "user", "content": rng.choice(PHRASINGS).format(e=expression)}]


def _offered_tools(rng: random.Random) -> list[Chat]:
    tools = list(TOOLS)
    if rng.random() < 0.5:
        tools += rng.sample(DISTRACTORS, rng.randint(1, 2))
    rng.shuffle(tools)
    return tools


def _integer(rng: random.Random) -> int:
    """One or two digits with equal chance, else small numbers would be rare."""
    return rng.randint(0, 10 ** rng.randint(1, 2) - 1)


def _direct(rng: random.Random) -> Problem:
    """Sums and differences of 0..20, products of 0..12, answered from memory."""
    sign = rng.choices("+-*", [0.45, 0.3, 0.25])[0]
    highest = 12 if sign == "*" else 20
    a, b = rng.randint(0, highest), rng.randint(0, highest)
    expression = f"{a}{sign}{b}"
    answer = str(FUNCTIONS[TOOL_OF_OPERATOR[sign]](a, b))
    return Problem("direct", expression, _question(rng, expression), answer, [_assistant(answer)])


def _choice(rng: random.Random) -> Problem:
    """The largest or smallest of three numbers, answered with its letter."""
    numbers = rng.sample(range(100), 3)
    word, extreme = rng.choice([("largest", max), ("smallest", min)])
    options = " ".join(f"{letter}) {number}" for letter, number in zip("ABC", numbers, strict=True))
    question = f"Which number is the {word}? {options} Answer with one letter."
    answer = "ABC"[numbers.index(extreme(numbers))]
    return Problem("choice", question, [{"role": "user", "content": question}], answer, [_assistant(answer)])


def _one_call(rng: random.Random) -> Problem:
    """One operation on numbers of up to two digits, by one tool call."""
    sign = rng.choice("+-*")
    a, b = _integer(rng), _integer(rng)
    expression, name = f"{a}{sign}{b}", TOOL_OF_OPERATOR[sign]
    result = FUNCTIONS[name](a, b)
    messages = _question(rng, expression)
    trajectory = [_call(name, a, b), _tool_result(result), _assistant(str(result))]
    return Problem("tool", expression, messages, str(result), trajectory, _offered_tools(rng))


def _two_calls(rng: random.Random) -> Problem:
    """``a+b*c`` or ``a-b*c``: the second call needs the product that the first one returned."""
    sign = rng.choice("+-")
    a, b, c = _integer(rng), _integer(rng), _integer(rng)
    expression, name = f"{a}{sign}{b}*{c}", TOOL_OF_OPERATOR[sign]
    product = b * c
    result = FUNCTIONS[name](a, product)
    messages = _question(rng, expression)
    trajectory = [
        _call("multiply", b, c),
        _tool_result(product),
        _call(name, a, product),
        _tool_result(result),
        _assistant(str(result)),
    ]
    return Problem("chain", expression, messages, str(result), trajectory, _offered_tools(rng))


def _guess(rng: random.Random) -> Problem:
    """Find a secret number by halving the range that the replies leave."""
    secret = rng.randint(1, GUESS_HIGHEST)
    trajectory, low, high = [], 1, GUESS_HIGHEST
    while (guess := (low + high) // 2) != secret:
        reply = reply_to_guess(secret, guess)
        trajectory += [_assistant(str(guess)), {"role": "user", "content": reply}]
        low, high = (guess + 1, high) if reply == HIGHER else (low, guess - 1)
    trajectory.append(_assistant(str(secret)))
    return Problem("guess", str(secret), [{"role": "user", "content": GUESS_PROMPT}], str(secret), trajectory)


_GENERATORS: dict[Kind, Callable[[random.Random], Problem]] = {
    "direct": _direct,
    "choice": _choice,
    "tool": _one_call,
    "chain": _two_calls,
    "guess": _guess,
}
