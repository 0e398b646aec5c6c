"""Manifests that tests of the operator's behaviour start from."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

API = "kubegym.dev/v1alpha1"

DONE: Object = {
    "manifestUri": "s3://kubegym/runs/math/manifest.json",
    "planDigest": "abc",
    "complete": True,
    "rollouts": {"expected": 16, "scored": 15, "unscored": 1, "failed": 0},
    "rewardMean": "0.5",
    "tokens": {"input": 5, "output": 7},
}
"""The last words of a finaliser."""


def environment(name: str = "math", **spec: Any) -> Object:
    """An environment with pods of its own and a model."""
    return _object("GymEnvironment", name, {"models": {"policy": {"server": {"engine": "embedded"}}}, **spec})


def rollout_job(name: str = "run", environments: tuple[str, ...] = ("math",), **spec: Any) -> Object:
    """A run over some environments."""
    entries = [{"name": e, "environmentRef": {"name": e}, "dataset": {"bundled": {}}} for e in environments]
    return _object("RolloutJob", name, {"environments": entries, "output": {"uri": "s3://kubegym/runs/math/"}, **spec})


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
