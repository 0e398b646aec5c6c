"""ModelServer: engine and model server in one pod, replicas of it, and the Services in front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kubegym.core.spec import ModelServer
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext, PodPeer
from kubegym_operator.build.disruption import disruption_budget
from kubegym_operator.build.endpoints import MODEL_PORT
from kubegym_operator.build.engine import (
    ENGINE,
    LOAD_SECONDS,
    engine_container,
    grace_seconds,
    has_sidecar,
    scheduling,
    sidecar,
)
from kubegym_operator.build.labels import Component, content_digest, pod_selector, selector
from kubegym_operator.build.network import distinct, from_pods, network_policy, to_dns, to_stores, watchers
from kubegym_operator.build.pod import SERVER_GRACE_SECONDS, Container, Pod
from kubegym_operator.build.queueing import queue_labels
from kubegym_operator.build.rolling import NO_DIGESTS, with_config_digest
from kubegym_operator.build.service import headless_service, service
from kubegym_operator.build.sources import exchangeable, fetcher, first_weights, plan_weights
from kubegym_operator.build.weights import CONTROL_PORT, announced_config, fetches_announced

LEADER_WORKER_SET: Final = "leaderworkerset.x-k8s.io/v1"

_PACE = frozenset({"replicas", "suspend", "idlePolicy", "autoscaling", "weights"})
"""Fields of the spec that no rendering depends on; on ``weights`` only where they are what an engine starts with."""

_FETCH_RETRIES = 6
_EXIT_CANNOT_SUCCEED = 11


def build_model_server(
    server: ModelServer,
    context: BuildContext,
    *,
    config_digests: Mapping[str, str] = NO_DIGESTS,
    good: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The objects to apply: ServiceAccount, Services, NetworkPolicy, PodDisruptionBudget, Deployment (last).

    With ``parallelism.nodes`` > 1 the workload is a LeaderWorkerSet; whether that kind is installed is the caller's
    question. The workload belongs on the cluster only after the fetch Job (``build_fetch_job``), where there is one.

    Args:
        server: the ModelServer, with its uid.
        context: the surroundings.
        config_digests: content digests of the ConfigMaps that the podTemplate names, as far as they were observed.
        good: weights that were served before the announced ones.

    Raises:
        BuildError: a spec that cannot be rendered.
    """
    rendering = _rendering(server, context, config_digests)
    objects = [
        service(rendering, names.model_service(server.name), Component.MODEL, MODEL_PORT),
        headless_service(rendering, names.model_pods(server.name), Component.MODEL, MODEL_PORT),
        _network_policy(rendering, server),
        disruption_budget(rendering, server.name, Component.MODEL),
        *announced_config(rendering, server, good),
    ]
    if plan_weights(server).by_job:
        objects.append(_fetch_policy(rendering, server))
    if server.spec.service_account_name is None:
        objects.insert(0, rendering.service_account(server.name, Component.MODEL))
    workload = _group if server.spec.parallelism.nodes > 1 else _deployment
    return [*objects, workload(rendering, server, config_digests)]


def build_fetch_job(server: ModelServer, context: BuildContext) -> list[dict[str, Any]]:
    """The Job to create once so that the cache's claim holds the weights; none where nothing is to be fetched so.

    Another source is another Job, named after what it fetches; it fills a folder of its own. ServiceAccount and
    NetworkPolicy are among ``build_model_server``'s objects.

    Raises:
        BuildError: a source that cannot be fetched.
    """
    plan = plan_weights(server)
    if not plan.by_job:
        return []
    rendering = _rendering(server, context, NO_DIGESTS)
    name = names.fetch(server.name, plan.digest)
    container = fetcher(server, plan, context, "fetch")
    pod = Pod(
        server,
        Component.FETCHER,
        [container],
        _service_account(server),
        extra={"restartPolicy": "Never"},
    )
    job = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": _FETCH_RETRIES,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "fetch", "operator": "In", "values": [_EXIT_CANNOT_SUCCEED]},
                },
            ]
        },
        "template": pod.to_template(context, None),
    }
    return [rendering.child("Job", name, Component.FETCHER, api_version="batch/v1", spec=job)]


def _rendering(server: ModelServer, context: BuildContext, config_digests: Mapping[str, str]) -> Rendering:
    spec = server.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    start = first_weights(server)
    pace = _PACE if start is None or start.version is None else _PACE - {"weights"}
    rendered = {key: value for key, value in spec.items() if key not in pace}
    return Rendering(server, context, content_digest("ModelServer", rendered, dict(config_digests)))


def _deployment(rendering: Rendering, server: ModelServer, config_digests: Mapping[str, str]) -> dict[str, Any]:
    spec = {
        "selector": {"matchLabels": selector(server, Component.MODEL)},
        # Accelerators are scarce: a surge would wait for one that the old pod holds.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "progressDeadlineSeconds": LOAD_SECONDS + 600,
        "revisionHistoryLimit": 2,
        "template": _template(rendering, server, config_digests),
    }
    return rendering.child(
        "Deployment",
        names.workload(server.name),
        Component.MODEL,
        api_version="apps/v1",
        more_labels=queue_labels(server.spec.queue),
        spec=spec,
    )


def _group(rendering: Rendering, server: ModelServer, config_digests: Mapping[str, str]) -> dict[str, Any]:
    """Replicas of several pods each: the first of a group serves, the others compute with it."""
    template = {
        "size": server.spec.parallelism.nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": _template(rendering, server, config_digests),
        "workerTemplate": _template(rendering, server, config_digests, follower=True),
    }
    spec = {
        "leaderWorkerTemplate": template,
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
        },
        "startupPolicy": "LeaderCreated",
    }
    return rendering.child(
        "LeaderWorkerSet",
        names.group(server.name),
        Component.MODEL,
        api_version=LEADER_WORKER_SET,
        more_labels=queue_labels(server.spec.queue),
        spec=spec,
    )


def _template(
    rendering: Rendering, server: ModelServer, config_digests: Mapping[str, str], *, follower: bool = False
) -> dict[str, Any]:
    """One pod of a replica."""
    context = rendering.context
    plan = plan_weights(server)
    init: list[Container] = []
    if plan.fetch_into is not None and not plan.by_job:
        init.append(fetcher(server, plan, context, "fetch"))
    if has_sidecar(server) and not follower:
        init.append(sidecar(server, plan, context))
    pod = Pod(
        server,
        Component.MODEL_FOLLOWER if follower else Component.MODEL,
        [engine_container(server, plan, context, follower=follower)],
        _service_account(server),
        init_containers=init,
        grace_seconds=grace_seconds(server) if has_sidecar(server) else SERVER_GRACE_SECONDS,
        extra=scheduling(server),
    )
    # The image of an engine is its user's choice; there is no other field for it.
    adjustable = {f"containers[{ENGINE}].image"} if has_sidecar(server) else ()
    template = pod.to_template(context, server.spec.pod_template, adjustable=adjustable)
    return with_config_digest(template, config_digests)


def _network_policy(rendering: Rendering, server: ModelServer) -> dict[str, Any]:
    """In from the consumers; out for names only, to the other nodes of a replica, and to where weights are fetched."""
    context = rendering.context
    ingress = [from_pods([PodPeer(), *watchers(context)], MODEL_PORT)]
    if exchangeable(server):
        ingress.append(from_pods([context.operator], CONTROL_PORT))
    if server.spec.consumers is not None:
        chosen = server.spec.consumers.namespace_selector.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        ingress[0]["from"].append({"podSelector": {}, "namespaceSelector": chosen})
    egress = [to_dns(context)]
    components = [Component.MODEL]
    if server.spec.parallelism.nodes > 1:
        components.append(Component.MODEL_FOLLOWER)
        ingress.append({"from": [{"podSelector": pod_selector(server, *components)}]})
        egress.append({"to": [{"podSelector": pod_selector(server, *components)}]})
    plan = plan_weights(server)
    if (plan.fetch_into is not None and not plan.by_job) or fetches_announced(server):
        egress += to_stores(context, (), rendering.namespace)
    if fetches_announced(server):  # this depends on the announced weights, and nothing else does
        rendering = replace(rendering, spec_digest=content_digest(rendering.spec_digest, "announced"))
    return network_policy(rendering, server.name, *components, ingress=ingress, egress=distinct(egress))


def _fetch_policy(rendering: Rendering, server: ModelServer) -> dict[str, Any]:
    """Nothing in; out for names and to hubs and stores."""
    context = rendering.context
    egress = distinct([to_dns(context)], to_stores(context, (), rendering.namespace))
    return network_policy(rendering, names.fetch_policy(server.name), Component.FETCHER, ingress=[], egress=egress)


def _service_account(server: ModelServer) -> str:
    return server.spec.service_account_name or server.name
