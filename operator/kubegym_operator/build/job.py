"""RolloutJob: the Indexed Job of workers, and the Job that finalises (rules 4 and 5)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kubegym.core.spec import Compute, RolloutJob
from kubegym_operator.build import names
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext, PodPeer
from kubegym_operator.build.endpoints import AGENT_PORT, RESOURCES_PORT, WORKER_PORT
from kubegym_operator.build.environment import inline_servers
from kubegym_operator.build.frozen import FILE, FOLDER, FrozenRun
from kubegym_operator.build.labels import JOB_NUMBER, Component, content_digest, pod_labels
from kubegym_operator.build.network import (
    Rule,
    distinct,
    from_pods,
    network_policy,
    to_dns,
    to_model,
    to_pods,
    to_stores,
    watchers,
)
from kubegym_operator.build.part import key_mounts
from kubegym_operator.build.pod import (
    SECRETS_FOLDER,
    Container,
    Mount,
    Pod,
    ca_bundle,
    config_mount,
    http_probe,
    pod_identity,
    secret_mount,
)
from kubegym_operator.build.queueing import queue_labels
from kubegym_operator.build.sandbox import sandbox_access, to_sandbox
from kubegym_operator.build.service import headless_service

WORKER: Final = "worker"
"""The container of workers and finaliser; what a podTemplate calls it."""

PACE_FOLDER: Final = "/etc/kubegym/pace"
PACE_FILE: Final = "pace.json"

EXIT_CANNOT_SUCCEED: Final = 11
"""Exit code: the job cannot succeed, whoever tries again."""

EXIT_FENCED: Final = 12
"""Exit code: another worker has taken over."""

EXIT_TERMINATED: Final = 143
"""Exit code: SIGTERM, after a flush."""

_GRACE_SECONDS = 120
"""For the last flush after SIGTERM, over a slow network."""

_FINALISER_RETRIES = 10
_WORKER_COMPUTE = Compute(requests={"cpu": "500m", "memory": "512Mi"})
_FINALISER_COMPUTE = Compute(requests={"cpu": "100m", "memory": "256Mi"})


def build_run_objects(job: RolloutJob, frozen: FrozenRun, context: BuildContext) -> list[dict[str, Any]]:
    """The objects to apply beside the Jobs: ConfigMap of the pace, headless Service, ServiceAccount, NetworkPolicy.

    No PodDisruptionBudget: one of a Job's pods would block every drain, and an evicted worker loses no rollout.
    """
    rendering = _rendering(job, frozen, context)
    name = names.workers(job.name)
    pace = json.dumps({"concurrency": job.spec.concurrency}) + "\n"
    objects = [
        rendering.child("ConfigMap", names.pace_config(job.name), Component.WORKER, data={PACE_FILE: pace}),
        headless_service(rendering, name, Component.WORKER, WORKER_PORT, not_ready=True),
        _network_policy(rendering, job, frozen),
    ]
    if job.spec.worker.service_account_name is None:
        objects.insert(0, rendering.service_account(name, Component.WORKER))
    return objects


def build_model_servers(job: RolloutJob, context: BuildContext) -> list[dict[str, Any]]:
    """A ModelServer for each inline ``server`` of an entry's ``models``; owner name ``<job>-<entry>``."""
    rendering = Rendering(job, context, "")
    entries = job.spec.environments
    return [obj for e in entries for obj in inline_servers(rendering, e.models, names.entry(job.name, e.name), {})]


def build_worker_job(
    job: RolloutJob, frozen: FrozenRun, context: BuildContext, *, number: int, workers: int, suspend: bool
) -> list[dict[str, Any]]:
    """The objects to create, in order: ConfigMap ``<job>-run``, then the Job (``<job>``, or ``<job>-<number>``).

    Args:
        job: the RolloutJob, with its uid.
        frozen: its run; of a run that exists already: ``FrozenRun.from_config_map``.
        context: the surroundings.
        number: 1 for the first Job; grows where a change needs another Job (rule 5).
        workers: completions and parallelism; at least 1, as a Job of none is complete at once.
        suspend: with a queue always True: Kueue lets it go.

    Raises:
        BuildError: a podTemplate that cannot be rendered.
    """
    rendering = _rendering(job, frozen, context)
    serving = {
        "startupProbe": http_probe("/healthz", period=5, failures=60),
        "readinessProbe": http_probe("/readyz", period=10),
        "livenessProbe": http_probe("/healthz", failures=12),
    }
    pace = config_mount("pace", names.pace_config(job.name), PACE_FOLDER, PACE_FILE)
    sandboxes = _sandboxes(job, frozen)
    # One process has one sandbox; pods of all environments are alike, so that the first's serve all of them.
    mounts, variables = sandbox_access(sandboxes[0], rendering.namespace) if sandboxes else ([], {})
    container = _container(
        job,
        frozen,
        context,
        [WORKER, "--run", f"{FOLDER}/{FILE}", "--pace", f"{PACE_FOLDER}/{PACE_FILE}", "--listen", f":{WORKER_PORT}"],
        mounts=[pace, *_dataset_mounts(job), *_key_mounts(frozen), *mounts],
        compute=job.spec.worker.compute or _WORKER_COMPUTE,
        env={"KUBEGYM_WORKERS": str(workers), **variables},
        port=WORKER_PORT,
        extra=serving,
    )
    spec = {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        "suspend": suspend,
        "backoffLimit": job.spec.failure_policy.backoff_limit,
        "template": _template(job, context, Component.WORKER, container, number, subdomain=names.workers(job.name)),
    }
    return [
        frozen.to_config_map(job, context),
        _job(rendering, names.job(job.name, number), Component.WORKER, number, spec),
    ]


def build_finaliser(job: RolloutJob, frozen: FrozenRun, context: BuildContext) -> list[dict[str, Any]]:
    """The Job ``<job>-finalise``, to be created when every worker is done.

    It carries the run's queue, identity and scheduling (rule 9). With a queue it is created suspended.
    """
    container = _container(
        job,
        frozen,
        context,
        ["finalise", "--run", f"{FOLDER}/{FILE}"],
        mounts=[],
        compute=_FINALISER_COMPUTE,
        env={},
    )
    spec = {
        "completions": 1,
        "parallelism": 1,
        "suspend": job.spec.queue is not None,
        "backoffLimit": _FINALISER_RETRIES,
        "template": _template(job, context, Component.FINALISER, container, 1),
    }
    rendering = _rendering(job, frozen, context)
    return [_job(rendering, names.finaliser(job.name), Component.FINALISER, 1, spec)]


def _rendering(job: RolloutJob, frozen: FrozenRun, context: BuildContext) -> Rendering:
    worker = job.spec.worker.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return Rendering(job, context, content_digest("RolloutJob", frozen.digest, worker, job.spec.concurrency))


def _job(rendering: Rendering, name: str, component: str, number: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A Job with what all of a run's have in common. It is created once: nothing of it is ever compared."""
    job = rendering.owner
    assert isinstance(job, RolloutJob), "runs are RolloutJobs'"
    return rendering.child(
        "Job",
        name,
        component,
        api_version="batch/v1",
        more_labels={JOB_NUMBER: str(number), **queue_labels(job.spec.queue)},
        spec={"podReplacementPolicy": "Failed", "podFailurePolicy": pod_failure_policy(), **spec},
    )


def pod_failure_policy() -> dict[str, Any]:
    """What a pod's end means; the first rule that matches counts, and what matches none counts as a failure.

    Preemption, drains and fencing burn no retry; what cannot succeed is not tried again.
    """

    def exit_codes(action: str, *values: int) -> dict[str, Any]:
        return {"action": action, "onExitCodes": {"containerName": WORKER, "operator": "In", "values": list(values)}}

    return {
        "rules": [
            exit_codes("FailJob", EXIT_CANNOT_SUCCEED),
            exit_codes("Ignore", EXIT_FENCED, EXIT_TERMINATED),
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _container(
    job: RolloutJob,
    frozen: FrozenRun,
    context: BuildContext,
    args: list[str],
    *,
    mounts: Iterable[Mount],
    compute: Compute,
    env: Mapping[str, str],
    port: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Container:
    """A container with the run, and what it takes to reach the output."""
    bundle, variables = ca_bundle(context)
    return Container(
        WORKER,
        frozen.worker_image,
        args=args,
        env={**pod_identity(), **env, **context.proxy_env, **variables},
        mounts=[config_mount("run", names.run_config(job.name), FOLDER, FILE), *_output_mounts(job), *mounts, *bundle],
        port=port,
        compute=compute,
        extra=extra or {},
    )


def _template(
    job: RolloutJob,
    context: BuildContext,
    component: str,
    container: Container,
    number: int,
    *,
    subdomain: str | None = None,
) -> dict[str, Any]:
    pod = Pod(
        job,
        component,
        [container],
        job.spec.worker.service_account_name or names.workers(job.name),
        grace_seconds=_GRACE_SECONDS,
        labels={JOB_NUMBER: str(number)},
        extra={"restartPolicy": "Never", **({"subdomain": subdomain} if subdomain else {})},
    )
    return pod.to_template(context, job.spec.worker.pod_template, "spec.worker.podTemplate")


def _output_mounts(job: RolloutJob) -> list[Mount]:
    """Credentials and certificate authorities of the output."""
    output, mounts = job.spec.output, []
    if output.credentials_secret_ref is not None:
        mounts.append(secret_mount("output", output.credentials_secret_ref.name, f"{SECRETS_FOLDER}/output"))
    if output.ca_config_map_ref is not None:
        authorities = output.ca_config_map_ref
        mounts.append(config_mount("output-ca", authorities.name, "/etc/kubegym/ca/output", authorities.key))
    return mounts


def _dataset_mounts(job: RolloutJob) -> list[Mount]:
    """Rows that lie in ConfigMaps, and credentials for those that lie elsewhere."""
    mounts = []
    for entry in job.spec.environments:
        rows, secret = entry.dataset.config_map_ref, entry.dataset.credentials_secret_ref
        if rows is not None:
            folder = f"/etc/kubegym/dataset/{entry.name}"
            mounts.append(config_mount(names.volume("rows", entry.name), rows.name, folder, rows.key))
        if secret is not None:
            folder = f"{SECRETS_FOLDER}/dataset-{entry.name}"
            mounts.append(secret_mount(names.volume("dataset", entry.name), secret.name, folder))
    return mounts


def _key_mounts(frozen: FrozenRun) -> list[Mount]:
    """Keys of endpoints that agents in the worker's process ask."""
    return [
        mount
        for entry, endpoints in sorted(frozen.endpoints.items())
        for mount in key_mounts(endpoints.models, f"model-{entry}")
    ]


def _network_policy(rendering: Rendering, job: RolloutJob, frozen: FrozenRun) -> dict[str, Any]:
    """In from the operator, which asks for progress; out to names, environments, models, stores, and what is listed."""
    context, namespace = rendering.context, rendering.namespace
    urls = [job.spec.output.endpoint, *(entry.dataset.endpoint for entry in job.spec.environments)]
    egress = distinct(
        [to_dns(context)],
        _to_environments(job, frozen),
        [
            to_model(endpoint, context, namespace)
            for _, endpoints in sorted(frozen.endpoints.items())
            for _, endpoint in sorted(endpoints.models.items())
        ],
        to_stores(context, urls, namespace),
        job.spec.worker.allowed_egress,
    )
    ingress = [from_pods(watchers(context), WORKER_PORT)]
    name = names.workers(job.name)
    return network_policy(rendering, name, Component.WORKER, Component.FINALISER, ingress=ingress, egress=egress)


def _to_environments(job: RolloutJob, frozen: FrozenRun) -> list[Rule]:
    """Out to the agents and resources servers of the run."""
    rules = []
    for entry in job.spec.environments:
        name, endpoints = entry.environment_ref.name, frozen.endpoints[entry.name]
        parts = (
            (endpoints.agent, Component.AGENT, AGENT_PORT),
            (endpoints.resources, Component.RESOURCES, RESOURCES_PORT),
        )
        for urls, component, port in parts:
            if urls:
                rules.append(to_pods([PodPeer(pod_labels("GymEnvironment", name, component))], port))
    return [*rules, *map(to_sandbox, _sandboxes(job, frozen)[:1])]


def _sandboxes(job: RolloutJob, frozen: FrozenRun) -> list[str]:
    """Environments in the worker's process that run code in sandbox pods."""
    found = []
    for entry in job.spec.environments:
        resources = frozen.document["environments"][entry.name]["manifest"]["spec"].get("resources", {})
        if resources.get("placement") == "Worker" and resources.get("sandbox") is not None:
            found.append(entry.environment_ref.name)
    return sorted(set(found))
