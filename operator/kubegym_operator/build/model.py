"""ModelServer: engine and model server in one pod, replicas of it, and the Services in front."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kubegym.core.spec import ModelServer
from kubegym_operator.build.context import BuildContext

NO_DIGESTS: Mapping[str, str] = MappingProxyType({})


def build_model_server(
    server: ModelServer, context: BuildContext, *, config_digests: Mapping[str, str] = NO_DIGESTS
) -> list[dict[str, Any]]:
    """The objects to apply: ServiceAccount, Services, NetworkPolicy, PodDisruptionBudget, Deployment (last).

    With ``parallelism.nodes`` > 1 the workload is a LeaderWorkerSet; whether that kind is installed is the caller's
    question. The workload belongs on the cluster only after the fetch Job (``build_fetch_job``), where there is one.

    Args:
        server: the ModelServer, with its uid.
        context: the surroundings.
        config_digests: content digests of the ConfigMaps that the podTemplate names, as far as they were observed.

    Raises:
        BuildError: a spec that cannot be rendered.
    """
    raise NotImplementedError


def build_fetch_job(server: ModelServer, context: BuildContext) -> list[dict[str, Any]]:
    """The objects to create once so that the cache's claim holds the weights; none where nothing is to be fetched.

    Another source is another Job, named after what it fetches; it fills a folder of its own.
    """
    raise NotImplementedError
