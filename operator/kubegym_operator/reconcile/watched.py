"""The kinds that are watched, and therefore cached."""

from __future__ import annotations

from typing import Final

from kubegym_operator.kube.protocol import Kind

GROUP_VERSION: Final = "kubegym.dev/v1alpha1"

MODEL_SERVER: Final = Kind(GROUP_VERSION, "ModelServer")
GYM_ENVIRONMENT: Final = Kind(GROUP_VERSION, "GymEnvironment")
ROLLOUT_JOB: Final = Kind(GROUP_VERSION, "RolloutJob")

OWN: Final = (MODEL_SERVER, GYM_ENVIRONMENT, ROLLOUT_JOB)
"""Our kinds: all of their objects are watched."""

CHILDREN: Final = (
    Kind("apps/v1", "Deployment"),
    Kind("batch/v1", "Job"),
    Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    Kind("networking.k8s.io/v1", "NetworkPolicy"),
    Kind("policy/v1", "PodDisruptionBudget"),
    Kind("v1", "ConfigMap"),
    Kind("v1", "Pod"),
    Kind("v1", "Service"),
    Kind("v1", "ServiceAccount"),
)
"""Kinds of children: of these only the objects that carry our label are watched (DESIGN 5, rule 10).

A kind that is not installed (LeaderWorkerSet) is watched from the moment it is.
"""

WATCHED: Final = frozenset((*OWN, *CHILDREN))

MANAGED: Final = "app.kubernetes.io/managed-by=kubegym"
"""The selector of children."""
