"""What a replica serves, and what it begins with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kubegym.core.spec.model import Weights
from kubegym.model.weights.canary import Canary

log = logging.getLogger("kubegym.model")


@dataclass(frozen=True, slots=True)
class Start:
    """What a replica begins with.

    Attributes:
        version: of the weights that the engine starts with, where they have one.
        folder: where they lie, for their canary; None: not known.
        announced: a file that says what is to be served: ``{"wanted": Weights, "good": Weights | null}``. Read once,
            at the start; missing or empty: nothing was announced.
    """

    version: int | None = None
    folder: Path | None = None
    announced: Path | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Weights that an engine was given.

    Attributes:
        version: that rows carry.
        folder: of full weights; None: the engine's first ones.
        label: what the engine calls them.
        adapter: the name of an adapter over its first ones.
        canary: what they answer; None: not known.
        adapter_folder: where the adapter lies.
    """

    version: int | None = None
    folder: Path | None = None
    label: str = ""
    adapter: str | None = None
    canary: Canary | None = None
    adapter_folder: Path | None = None


def read_announced(path: Path | None) -> list[Weights]:
    """What is wanted, then what was good; empty: nothing was announced."""
    try:
        raw = json.loads(path.read_bytes()) if path is not None else {}
    except (OSError, ValueError):
        return []
    found = []
    for name in ("wanted", "good"):
        if isinstance(raw, dict) and raw.get(name):
            try:
                found.append(Weights.model_validate(raw[name]))
            except ValidationError as error:
                log.error("weights: %s says %s, which is none: %s", path, name, error)
    return found
