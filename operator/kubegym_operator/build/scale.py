"""Replicas: never in an applied object (rule 1), only in the first write of a workload and later by ``/scale``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubegym.core.spec import GymEnvironment, ModelServer


def wanted_replicas(owner: GymEnvironment | ModelServer) -> dict[str, int]:
    """How many replicas each workload has when it is neither suspended nor idle, by the workload's name."""
    raise NotImplementedError


def initial_scale(obj: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """The object for its first write: a workload with ``spec.replicas``."""
    raise NotImplementedError
