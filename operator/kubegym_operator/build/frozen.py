"""A run as it is frozen at its start: what workers mount, and the digest that a later change is told by (rule 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubegym.core.spec import GymEnvironment, RolloutJob
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import EntryEndpoints


@dataclass(frozen=True, slots=True)
class FrozenRun:
    """A resolved run.

    Attributes:
        document: the content of ``run.json``.
        digest: of what decides what is collected: never of addresses, sizes, credentials, default images or policy
            weights, so that it is the same after an upgrade of the operator.
        environments: the digest of each entry's environment alone, by entry.
        worker_image: the image of the run's workers and finaliser, resolved once.
    """

    document: Mapping[str, Any]
    digest: str
    environments: Mapping[str, str]
    worker_image: str

    def to_config_map(self, job: RolloutJob, context: BuildContext) -> dict[str, Any]:
        """The immutable ConfigMap ``<job>-run``: created once."""
        raise NotImplementedError

    @classmethod
    def from_config_map(cls, config_map: Mapping[str, Any]) -> FrozenRun:
        """The run that ``to_config_map`` wrote. Raises ValueError where it is none."""
        raise NotImplementedError


def freeze(
    job: RolloutJob,
    environments: Mapping[str, GymEnvironment],
    endpoints: Mapping[str, EntryEndpoints],
    context: BuildContext,
) -> FrozenRun:
    """Resolve a run.

    Args:
        job: the RolloutJob, with its uid.
        environments: by *entry* (``spec.environments[].name``).
        endpoints: by entry.
        context: the surroundings.

    Raises:
        WorkerImageConflict: the environments placed in the worker ask for different images.
    """
    raise NotImplementedError
