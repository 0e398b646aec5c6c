"""What a simulated engine does. Plain frozen dataclasses: a benchmark's stub must start at once."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from kubegym.core.errors import InvalidSpec

AnswerFunction = Callable[[dict[str, Any]], str | dict[str, Any]]
"""Given the chat request: the answer's text, or a whole assistant message."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A non-negative random number.

    Attributes:
        kind: ``constant`` (``mean``), ``uniform`` (``low`` to ``high``), ``lognormal`` (its ``mean``, and ``sigma`` of
            the logarithm: 1.0 makes the 99th percentile about six times the mean).
    """

    kind: Literal["constant", "uniform", "lognormal"] = "constant"
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "uniform", "lognormal"):
            raise InvalidSpec(f"no distribution is called {self.kind!r}; there are constant, uniform and lognormal")
        if min(self.mean, self.low, self.sigma) < 0 or (self.kind == "uniform" and self.high < self.low):
            raise InvalidSpec(f"a distribution needs non-negative numbers and low <= high: {self}")
        if self.kind == "lognormal" and self.mean <= 0:
            raise InvalidSpec("a lognormal distribution needs a mean above 0")

    @classmethod
    def constant(cls, mean: float) -> Distribution:
        """Always ``mean``."""
        return cls("constant", mean=mean)

    @classmethod
    def uniform(cls, low: float, high: float) -> Distribution:
        """Anything between, equally likely."""
        return cls("uniform", low=low, high=high)

    @classmethod
    def lognormal(cls, mean: float, sigma: float = 1.0) -> Distribution:
        """Log-normal with this mean."""
        return cls("lognormal", mean=mean, sigma=sigma)

    def draw(self, rng: random.Random) -> float:
        """One number."""
        if self.kind == "constant":
            return self.mean
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return rng.lognormvariate(math.log(self.mean) - self.sigma**2 / 2, self.sigma)


@dataclass(frozen=True, slots=True)
class Answers:
    r"""What the engine says.

    Attributes:
        mode: ``fixed`` says ``text``; ``scripted`` goes through ``script``; ``random`` says words drawn from the
            request's content; ``mcq`` says ``\boxed{X}``, X drawn from the request's content.
        text: the answer of ``fixed``, and of ``scripted`` where nothing matches.
        script: (pattern, answer) pairs: the first pattern found in the last user message answers. An empty list of
            patterns with ``turns`` answers by the number of the turn.
        turns: answers in order of the conversation's assistant messages, the last one repeated.
        letters: what ``mcq`` draws from. Two letters are right half of the time where the right ones are spread evenly
            over just these.
        vary: draw from the arrival number, too, so that equal requests (the rollouts of a group) get different
            answers. Else an answer depends on seed and content alone.
        function: answers instead of all this; only in process.
    """

    mode: Literal["fixed", "scripted", "random", "mcq"] = "fixed"
    text: str = "This is a simulated answer."
    script: tuple[tuple[str, str], ...] = ()
    turns: tuple[str, ...] = ()
    letters: str = "AB"
    vary: bool = False
    function: AnswerFunction | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("fixed", "scripted", "random", "mcq"):
            raise InvalidSpec(f"no answer mode is called {self.mode!r}; there are fixed, scripted, random and mcq")
        if self.mode == "scripted" and not (self.script or self.turns):
            raise InvalidSpec("scripted answers need a script or turns")
        if not self.letters:
            raise InvalidSpec("letters must not be empty")
        for pattern, _ in self.script:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidSpec(f"the script's pattern {pattern!r} is no regular expression: {error}") from None


@dataclass(frozen=True, slots=True)
class Faults:
    """How often something goes wrong: shares of the requests, drawn in order of arrival, at most 1 together.

    Attributes:
        rate_limited: 429 with Retry-After.
        internal_error: 500.
        unavailable: 503.
        hang: never answered.
        html: 200 with a proxy's page.
        empty_choices: 200 with JSON and no choice.
        disconnect: the connection ends in the middle of the body.
        abort: 200 with finish_reason "abort" and half of a text.
        retry_after: seconds that 429 and 503 ask for.
    """

    rate_limited: float = 0.0
    internal_error: float = 0.0
    unavailable: float = 0.0
    hang: float = 0.0
    html: float = 0.0
    empty_choices: float = 0.0
    disconnect: float = 0.0
    abort: float = 0.0
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        rates = [rate for _, rate in self.rates()]
        if any(not 0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
            raise InvalidSpec("fault rates are shares: each from 0 to 1, and at most 1 together")

    def rates(self) -> tuple[tuple[Fault, float], ...]:
        """Every fault with its share."""
        return tuple((name, getattr(self, name)) for name in FAULTS)

    def draw(self, rng: random.Random) -> Fault | None:
        """The fault of the next request, or none."""
        point = rng.random()
        for name, rate in self.rates():
            point -= rate
            if point < 0:
                return name
        return None


Fault = Literal["rate_limited", "internal_error", "unavailable", "hang", "html", "empty_choices", "disconnect", "abort"]
FAULTS: tuple[Fault, ...] = (
    "rate_limited",
    "internal_error",
    "unavailable",
    "hang",
    "html",
    "empty_choices",
    "disconnect",
    "abort",
)


@dataclass(frozen=True, slots=True)
class SimulatedConfig:
    """A simulated engine.

    Attributes:
        model: the served name.
        seed: of everything that is drawn.
        latency: seconds before the first token.
        tokens: length of an answer; None counts the answer's own (four characters a token).
        seconds_per_token: time for each token of the answer.
        answers: what it says.
        tool_probability: share of the requests with tools that get a call of the first tool (or the one that
            ``tool_choice`` names) before an answer; after a tool's output it always answers.
        faults: what goes wrong.
        max_concurrency: requests at work; the others wait. None: no limit.
        max_queue: requests waiting; further ones get 503. None: no limit.
        context_window: tokens of prompt and answer; a longer prompt gets vLLM's 400. None: no limit.
        policy_version: told in a header, as our model server does; None tells nothing.
        weights: a folder that it has loaded, of which vLLM's routes to exchange weights know; None: it has none.
        weights_fault: how an exchange goes wrong (``simulated.weights``).
    """

    model: str = "simulated"
    seed: int = 0
    latency: Distribution = field(default_factory=Distribution)
    tokens: Distribution | None = None
    seconds_per_token: float = 0.0
    answers: Answers = field(default_factory=Answers)
    tool_probability: float = 1.0
    faults: Faults = field(default_factory=Faults)
    max_concurrency: int | None = None
    max_queue: int | None = None
    context_window: int | None = None
    policy_version: int | None = None
    weights: str | None = None
    weights_fault: Literal["stale", "head"] | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> SimulatedConfig:
        """The configuration that plain values (a manifest's, a flag's JSON) say.

        ``latency`` and ``tokens`` may be a number, which is constant. Raises InvalidSpec.
        """
        return _build(cls, options, "simulated engine")

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidSpec("a simulated model needs a name")
        if not 0 <= self.tool_probability <= 1:
            raise InvalidSpec(f"tool_probability is a share from 0 to 1, not {self.tool_probability}")
        if self.seconds_per_token < 0:
            raise InvalidSpec("seconds_per_token must not be negative")
        for name in ("max_concurrency", "context_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSpec(f"{name} must be at least 1, not {value}")
        if self.max_queue is not None and self.max_queue < 0:
            raise InvalidSpec(f"max_queue must not be negative, not {self.max_queue}")


_T = TypeVar("_T")
_PARTS: dict[str, type] = {"latency": Distribution, "tokens": Distribution, "answers": Answers, "faults": Faults}


def _build(cls: type[_T], options: Any, where: str) -> _T:
    """A configuration object from plain values. Raises InvalidSpec, which names the field."""
    if cls is Distribution and isinstance(options, int | float):
        options = {"mean": options}
    if not isinstance(options, Mapping):
        raise InvalidSpec(f"{where} must be an object, not {options!r}")
    known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known or name == "function":
            close = get_close_matches(str(name), known, 1)
            raise InvalidSpec(f"{where} has no field {name!r}" + (f"; is {close[0]!r} meant?" if close else ""))
        if name in _PARTS and value is not None:
            value = _build(_PARTS[name], value, f"{where}: {name}")
        elif name == "script" and isinstance(value, list | tuple):
            value = tuple(tuple(pair) for pair in value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise InvalidSpec(f"{where}: {error}") from None
