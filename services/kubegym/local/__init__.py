"""Runs manifests on one machine: composes environments, models, agents and the rollout engine.

The public names load what they need on first use: the supervisor of a run is forked before any of it is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubegym.local.collector import Collector
    from kubegym.local.python import run
    from kubegym.local.results import Results, load

__all__ = ["Collector", "Results", "load", "run"]

_HOMES = {"Collector": "collector", "Results": "results", "load": "results", "run": "python"}


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
