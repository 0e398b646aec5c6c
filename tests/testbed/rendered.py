"""Everything that the builders make of some manifests, as the operator would come to it step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubegym.core.spec import GymEnvironment, ModelServer, RolloutJob, manifest_from, models_for
from kubegym_operator.build import job as run
from kubegym_operator.build import names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import EntryEndpoints, entry_endpoints, model_endpoints
from kubegym_operator.build.environment import build_environment, build_model_servers, build_session_secret
from kubegym_operator.build.frozen import FrozenRun, freeze
from kubegym_operator.build.model import build_fetch_job, build_model_server

Object = dict[str, Any]
Manifest = GymEnvironment | RolloutJob | ModelServer

WORKLOADS = ("Deployment", "LeaderWorkerSet", "Job")


@dataclass
class Rendered:
    """What the builders made.

    Attributes:
        applied: objects that are applied, again and again.
        created: objects that are created once.
        runs: the frozen run of each RolloutJob, by name.
    """

    applied: list[Object] = field(default_factory=list)
    created: list[Object] = field(default_factory=list)
    runs: dict[str, FrozenRun] = field(default_factory=dict)

    @property
    def objects(self) -> list[Object]:
        """All of them."""
        return self.applied + self.created

    def of(self, *kinds: str) -> list[Object]:
        """Those of some kinds."""
        return [obj for obj in self.objects if obj["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The one of that kind and name."""
        (found,) = [obj for obj in self.of(kind) if obj["metadata"]["name"] == name]
        return found


def render(manifests: Sequence[Manifest], context: BuildContext, *, inline: bool = True) -> Rendered:
    """Render manifests and, unless ``inline`` is False, the children of inline ModelServers, too."""
    rendered = Rendered()
    own = list(_inline_servers(manifests, context, rendered))
    servers = {
        (each.metadata.namespace or "default", each.name): each
        for each in [*manifests, *own]
        if isinstance(each, ModelServer)
    }
    environments = {each.name: each for each in manifests if isinstance(each, GymEnvironment)}
    for manifest in [*manifests, *(own if inline else ())]:
        if isinstance(manifest, ModelServer):
            rendered.applied += build_model_server(manifest, context)
            rendered.created += build_fetch_job(manifest, context)
        elif isinstance(manifest, GymEnvironment):
            endpoints = model_endpoints(
                manifest.spec.models, servers, namespace=namespace_of(manifest), owner=manifest.name
            )
            rendered.applied += build_environment(manifest, endpoints, context)
            if manifest.spec.resources.placement == "Service":
                rendered.created.append(build_session_secret(manifest, "0" * 64))
        else:
            _run(manifest, environments, servers, context, rendered)
    return rendered


def frozen_run(
    job: RolloutJob,
    environments: Mapping[str, GymEnvironment],
    servers: Mapping[tuple[str, str], ModelServer],
    context: BuildContext,
) -> FrozenRun:
    """The run of a job; ``environments`` by their own names."""
    chosen = {entry.name: environments[entry.environment_ref.name] for entry in job.spec.environments}
    endpoints: dict[str, EntryEndpoints] = {}
    for entry in job.spec.environments:
        environment = chosen[entry.name]
        inherited = {role: model for role, model in environment.spec.models.items() if role not in entry.models}
        models = {
            **model_endpoints(inherited, servers, namespace=namespace_of(job), owner=environment.name),
            **model_endpoints(
                entry.models, servers, namespace=namespace_of(job), owner=names.entry(job.name, entry.name)
            ),
        }
        assert set(models) == set(models_for(entry, environment)), "a role is missing"
        endpoints[entry.name] = entry_endpoints(environment, models)
    return freeze(job, chosen, endpoints, context)


def with_identity(raw: Object, namespace: str = "team") -> Object:
    """The manifest as an API server has stored it: with namespace and uid."""
    metadata = {
        "namespace": namespace,
        **raw["metadata"],
        "uid": f"uid-of-{raw['kind'].lower()}-{raw['metadata']['name']}",
    }
    return {**raw, "metadata": metadata}


def pod_templates(obj: Object) -> list[Object]:
    """The pod templates of a workload."""
    spec = obj["spec"]
    if obj["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [group["leaderTemplate"], group["workerTemplate"]]
    return [spec["template"]]


def containers(template: Object) -> list[Object]:
    """The containers of a pod template, those that start first in front."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def namespace_of(manifest: Manifest) -> str:
    """Where it lives."""
    return manifest.metadata.namespace or "default"


def _inline_servers(manifests: Iterable[Manifest], context: BuildContext, rendered: Rendered) -> Iterable[ModelServer]:
    for manifest in manifests:
        made: list[Object] = []
        if isinstance(manifest, GymEnvironment):
            made = build_model_servers(manifest, context)
        elif isinstance(manifest, RolloutJob):
            made = run.build_model_servers(manifest, context)
        rendered.applied += made
        for raw in made:
            server = manifest_from(with_identity(raw), raw["metadata"]["name"])
            assert isinstance(server, ModelServer)
            yield server


def _run(
    job: RolloutJob,
    environments: Mapping[str, GymEnvironment],
    servers: Mapping[tuple[str, str], ModelServer],
    context: BuildContext,
    rendered: Rendered,
) -> None:
    frozen = frozen_run(job, environments, servers, context)
    rendered.runs[job.name] = frozen
    rendered.applied += run.build_run_objects(job, frozen, context)
    rendered.created += run.build_worker_job(
        job, frozen, context, number=1, workers=max(1, job.spec.parallelism), suspend=job.spec.queue is not None
    )
    rendered.created += run.build_finaliser(job, frozen, context)
