"""Runs manifests on one machine: composes environments, models, agents and the rollout engine."""

from kubegym.local.collector import Collector
from kubegym.local.python import run
from kubegym.local.results import Results, load

__all__ = ["Collector", "Results", "load", "run"]
