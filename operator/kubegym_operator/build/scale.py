"""Replicas: never in an applied object (rule 1), only in the first write of a workload and later by ``/scale``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubegym.core.spec import GymEnvironment, ModelServer, ModelServerSpec
from kubegym_operator.build import names


def wanted_replicas(owner: GymEnvironment | ModelServer) -> dict[str, int]:
    """How many replicas each workload has when it is neither suspended nor idle, by the workload's name.

    Of an environment these are the Deployments of its agent, resources server and sandbox, and the ModelServers of
    inline roles.
    """
    if isinstance(owner, ModelServer):
        workload = names.group if owner.spec.parallelism.nodes > 1 else names.workload
        return {workload(owner.name): _server_replicas(owner.spec)}
    wanted = {
        names.model_server(owner.name, role): _server_replicas(binding.server)
        for role, binding in sorted(owner.spec.models.items())
        if binding.server is not None
    }
    for name, part in ((names.resources, owner.spec.resources), (names.agent, owner.spec.agent)):
        if part.placement == "Service":
            wanted[name(owner.name)] = 1 if part.replicas is None else part.replicas
    sandbox = owner.spec.resources.sandbox
    if sandbox is not None:
        wanted[names.sandbox(owner.name)] = 1 if sandbox.replicas is None else sandbox.replicas
    return wanted


def initial_scale(obj: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """The object for its first write: a workload, or a ModelServer, with ``spec.replicas``."""
    return {**obj, "spec": {**obj["spec"], "replicas": replicas}}


def _server_replicas(spec: ModelServerSpec) -> int:
    replicas = 1 if spec.replicas is None else spec.replicas
    if spec.autoscaling is None or (spec.autoscaling.mode == "External" and spec.replicas is not None):
        return replicas  # an autoscaler has bounds of its own: held to others, it would see that it is not obeyed
    return max(spec.autoscaling.min_replicas, min(replicas, spec.autoscaling.max_replicas))
