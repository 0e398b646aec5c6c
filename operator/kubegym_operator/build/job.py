"""RolloutJob: the Indexed Job of workers, and the Job that finalises."""

from __future__ import annotations

from typing import Any

from kubegym.core.spec import RolloutJob
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.frozen import FrozenRun


def build_run_objects(job: RolloutJob, context: BuildContext) -> list[dict[str, Any]]:
    """The objects to apply beside the Jobs: pace ConfigMap, headless Service, ServiceAccount, NetworkPolicy, budget."""
    raise NotImplementedError


def build_model_servers(job: RolloutJob, context: BuildContext) -> list[dict[str, Any]]:
    """A ModelServer for each inline ``server`` of an entry's ``models``; owner name ``<job>-<entry>``."""
    raise NotImplementedError


def build_worker_job(
    job: RolloutJob, frozen: FrozenRun, context: BuildContext, *, number: int, workers: int, suspend: bool
) -> list[dict[str, Any]]:
    """The objects to create, in order: ConfigMap ``<job>-run``, then the Job (``<job>``, or ``<job>-<number>``).

    Args:
        job: the RolloutJob, with its uid.
        frozen: its run; of a run that exists already: ``FrozenRun.from_config_map``.
        context: the surroundings.
        number: 1 for the first Job; grows where a change needs another Job (rule 5).
        workers: completions and parallelism.
        suspend: with a queue always True: Kueue lets it go.

    Raises:
        BuildError: a podTemplate that cannot be rendered.
    """
    raise NotImplementedError


def build_finaliser(job: RolloutJob, frozen: FrozenRun, context: BuildContext) -> list[dict[str, Any]]:
    """The Job ``<job>-finalise``, to be created when every worker is done."""
    raise NotImplementedError
