"""What weights have to answer: log-probs of fixed sequences, made by a path that is trusted (pure).

Status codes prove nothing: an engine may take new weights and go on with old ones, or with half of both. So each
checkpoint carries, in ``kubegym-canary.json``, a few token sequences and the log-prob of each of their tokens given
those before, as its trainer computed them or a freshly started engine told them (``kubegym canary``)::

    {"schema": 1, "tolerance": 0.02, "probes": [{"token_ids": [1, 61, ...], "log_probs": [-2.31, ...]}]}

``log_probs`` belong to ``token_ids[1:]``. The weights are proven when the mean difference is within the tolerance (nats
a token), and when something has changed at all: training steps are small, and weights that did not arrive may be within
any tolerance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kubegym.model.weights.errors import WeightsError

CANARY_FILE: Final = "kubegym-canary.json"
TOLERANCE: Final = 0.05
"""Mean difference of log-probs, in nats a token, where a canary does not say its own. Kernels of another shape or
precision move bfloat16 log-probs by about 0.01; other weights move them by more than 0.1."""

LogProbs = Sequence[Sequence[float]]
"""Of several sequences, each of its tokens but the first."""
MOST_BYTES: Final = 4 << 20
MOST_PROBES: Final = 64
_NOISE: Final = 1e-4
"""A mean difference that another engine brings in float32."""
_STILL: Final = 1e-6
"""Up to here an engine says the same again."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A sequence, and the log-prob of each token but the first."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Canary:
    """What weights answer.

    Attributes:
        probes: at least one.
        tolerance: mean difference that is allowed, nats a token.
    """

    probes: tuple[Probe, ...]
    tolerance: float = TOLERANCE

    @classmethod
    def read(cls, folder: Path) -> Canary | None:
        """A checkpoint's; None: it has none. Raises WeightsError where the file is no canary."""
        path = folder / CANARY_FILE
        try:
            if path.stat().st_size > MOST_BYTES:
                raise WeightsError(f"{path} has more than {MOST_BYTES} bytes")
            return cls.parse(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, raw: Any) -> Canary:
        """From JSON. Raises ValueError."""
        if not isinstance(raw, dict) or raw.get("schema") != 1:
            raise ValueError("a canary is an object with schema 1")
        tolerance, given = raw.get("tolerance", TOLERANCE), raw.get("probes")
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf:
            raise ValueError("tolerance must be a positive number")
        if not isinstance(given, list) or not 0 < len(given) <= MOST_PROBES:
            raise ValueError(f"probes must be a list of 1 to {MOST_PROBES}")
        return cls(tuple(_probe(one) for one in given), float(tolerance))

    def to_json(self) -> dict[str, Any]:
        """As it lies in a file."""
        probes = [{"token_ids": list(one.token_ids), "log_probs": list(one.log_probs)} for one in self.probes]
        return {"schema": 1, "tolerance": self.tolerance, "probes": probes}

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """What is asked."""
        return [probe.token_ids for probe in self.probes]

    @property
    def log_probs(self) -> list[tuple[float, ...]]:
        """What is to come back."""
        return [probe.log_probs for probe in self.probes]

    def told(self, log_probs: LogProbs) -> Canary:
        """The same sequences with the log-probs that an engine told, which is trusted."""
        probes = zip(self.probes, log_probs, strict=True)
        return replace(self, probes=tuple(replace(probe, log_probs=tuple(given)) for probe, given in probes))

    def judge(self, answers: LogProbs, before: LogProbs | None = None) -> float:
        """How far answers are from the canary: the mean difference, nats a token.

        Args:
            answers: log-probs by the weights that are to be proven.
            before: by those that were served before, where they are others.

        Raises:
            WeightsError: too far, not finite, or as if nothing had been exchanged.
        """
        gap = distance(answers, self.log_probs)
        if not gap <= self.tolerance:
            told = f"they differ by {gap:.4g} nats a token, allowed {self.tolerance:g}"
            raise WeightsError(f"the canary's log-probs are others: {told}")
        if before is not None and gap > _NOISE and distance(answers, before) <= _STILL:
            raise WeightsError("the engine answers exactly as before: the weights have not arrived")
        return gap


def distance(one: LogProbs, other: LogProbs) -> float:
    """Mean absolute difference; infinite where lengths differ or a number is none."""
    if [len(each) for each in one] != [len(each) for each in other]:
        return math.inf
    gaps = [abs(a - b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)]
    return sum(gaps) / len(gaps) if gaps and all(map(math.isfinite, gaps)) else math.inf


def _probe(raw: Any) -> Probe:
    ids, log_probs = (raw.get("token_ids"), raw.get("log_probs")) if isinstance(raw, dict) else (None, None)
    if (
        not isinstance(ids, list)
        or not 2 <= len(ids) <= 65_536
        or not all(type(one) is int and one >= 0 for one in ids)
    ):
        raise ValueError("token_ids must be at least two ids")
    if not isinstance(log_probs, list) or len(log_probs) != len(ids) - 1:
        raise ValueError("log_probs must have one number for each token but the first")
    if not all(type(one) in (int, float) and math.isfinite(one) for one in log_probs):
        raise ValueError("log_probs must be finite numbers")
    return Probe(tuple(ids), tuple(map(float, log_probs)))
