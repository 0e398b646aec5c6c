"""GymEnvironment: its models, its resources server, its agent, and whether they serve together.

=========================================  ===========================================  ============================
seen (first row that fits)                 done                                         Ready
=========================================  ===========================================  ============================
a role's ModelServer is missing            inline: created, as if it was there          no, ``ModelNotReady``
a ``serverRef`` leads to nothing           everything else waits                        no, ``ModelServerNotFound``
a role's ModelServer is not for us         everything else waits                        Stalled
``suspend``                                0 replicas, own ModelServers suspended       yes, ``Suspended``
idle for long enough                       0 replicas                                   yes, ``Idle``
a part or a model in trouble               -                                            Stalled, its reason
a part's pods ready, not asked             ask one                                      no, ``Progressing``
all parts and models serve                 -                                            yes, ``Available``
=========================================  ===========================================  ============================

A part that is placed in the worker has no pods, and is ready by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubegym.core.errors import InvalidSpec
from kubegym.core.spec import GymEnvironment
from kubegym_operator.api import ModelServer, ModelServerSpec
from kubegym_operator.api.conditions import Condition
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import labels, names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import (
    AGENT_PORT,
    RESOURCES_PORT,
    ModelEndpointUrl,
    entry_endpoints,
    model_endpoints,
    server_of,
)
from kubegym_operator.build.environment import build_environment, build_model_servers, build_session_secret
from kubegym_operator.build.labels import Component
from kubegym_operator.build.sandbox import build_sandbox_secret
from kubegym_operator.build.scale import wanted_replicas
from kubegym_operator.plan.actions import Object, Plan
from kubegym_operator.plan.children import ChildActions, plan_children
from kubegym_operator.plan.failures import Trouble, unsettled_until
from kubegym_operator.plan.idle import Rest, resting
from kubegym_operator.plan.modelserver import ASK_AGAIN, CONFIG_MAPS_EVERY, render_outdated, served_at, suspended
from kubegym_operator.plan.objects import (
    DEPLOYMENT,
    MODEL_SERVER,
    condition,
    holds,
    labelled,
    name_of,
    named,
    spec_of,
    status_of,
    typed,
)
from kubegym_operator.plan.queues import REFERENCE_GRACE
from kubegym_operator.plan.snapshot import EnvironmentSnapshot, Question, ServerKey
from kubegym_operator.plan.status import kstatus, next_status
from kubegym_operator.plan.times import rfc3339, seconds
from kubegym_operator.plan.workload import Serving, Workload, awaits_answer, read_serving, read_workload

PART_QUESTION: Final = "/readyz"

_COUNTS: Final = ("parts",)

_PARTS: Final[Mapping[str, tuple[str, str, int]]] = {
    Component.RESOURCES: (Type.RESOURCES_READY, "resources", RESOURCES_PORT),
    Component.AGENT: (Type.AGENT_READY, "agent", AGENT_PORT),
}
"""By component: its condition, its name in ``status.parts``, its port."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of an environment or a job's entry, as far as they can be told.

    Attributes:
        endpoints: by role, those that could be resolved.
        servers: by role, the ModelServer behind it, as stored.
        trouble: what keeps the rest from being resolved.
    """

    endpoints: Mapping[str, ModelEndpointUrl]
    servers: Mapping[str, Object]
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class _View:
    """What follows from a snapshot before anything was asked."""

    rest: Rest
    workloads: Mapping[str, Workload]
    models: Models


def environment_questions(snapshot: EnvironmentSnapshot) -> tuple[Question, ...]:
    """What has to be asked before ``plan_environment`` can tell that it serves."""
    view = _view(snapshot)
    return tuple(
        Question(component, view.workloads[component].addresses, port, PART_QUESTION)
        for component, (type, _, port) in _PARTS.items()
        if component in view.workloads and awaits_answer(view.workloads[component], served_at(snapshot.raw, type))
    )


def plan_environment(snapshot: EnvironmentSnapshot, context: BuildContext) -> Plan:
    """What to do for a GymEnvironment.

    Raises:
        BuildError: its spec cannot be rendered.
    """
    view = _view(snapshot)
    actions = _children(snapshot, view, context)
    parts = {component: _serving(snapshot, view, component) for component in _PARTS}
    models = models_serving(view.models)
    trouble = _trouble(snapshot, view)
    conditions = _conditions(view, parts, models, trouble, actions.outdated)
    status, events = next_status(snapshot.raw, _fields(snapshot, view), conditions, snapshot.now, counts=_COUNTS)
    return Plan(
        applies=actions.applies,
        creates=actions.creates,
        scales=actions.scales,
        deletes=actions.deletes,
        status=status,
        events=events,
        requeue_after=_requeue(snapshot, view, parts),
    )


def resolve_models(
    bindings: Mapping[str, Any],
    servers: Mapping[ServerKey, Object],
    permitted: frozenset[ServerKey],
    *,
    namespace: str,
    owner: str,
    patient: bool,
) -> Models:
    """The models that play the roles of an environment or of a job's entry.

    Args:
        bindings: by role, as the spec has them.
        servers: the ModelServers that exist. Inline ones that do not are taken for what they will be.
        permitted: those of other namespaces that this one may use.
        namespace: of whoever binds.
        owner: whose inline servers are named after it.
        patient: what is missing may still come.
    """
    known: dict[ServerKey, ModelServer] = {}
    behind: dict[str, Object] = {}
    trouble: Trouble | None = None
    for role, binding in sorted(bindings.items()):
        key = server_of(binding, role, namespace, owner)
        if key is None:
            continue
        if key[0] != namespace and key not in permitted:
            trouble = trouble or Trouble(
                Reason.NAMESPACE_NOT_PERMITTED,
                f"model {role}: ModelServer {key[0]}/{key[1]} is not for namespace {namespace}; "
                "its spec.consumers.namespaceSelector has to select it",
            )
            continue
        found = servers.get(key)
        if found is None and binding.server is not None:
            found = _to_come(key, binding.server)
        if found is None:
            trouble = trouble or Trouble(
                Reason.MODEL_SERVER_NOT_FOUND,
                f"model {role}: there is no ModelServer {key[1]!r} in namespace {key[0]}",
                waits=patient,
            )
            continue
        try:
            server = typed(found)
        except InvalidSpec as error:
            trouble = trouble or Trouble(Reason.INVALID_SPEC, f"model {role}: {error.message}")
            continue
        if isinstance(server, ModelServer):
            known[key], behind[role] = server, found
    return Models(model_endpoints(bindings, known, namespace=namespace, owner=owner), behind, trouble)


def _to_come(key: ServerKey, spec: ModelServerSpec) -> Object:
    """An inline ModelServer before it is there: all that depends on its name and spec need not wait for it."""
    namespace, name = key
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": MODEL_SERVER.api_version, "kind": MODEL_SERVER.kind, "metadata": metadata, "spec": fields}


def models_serving(models: Models) -> Serving:
    """Whether every model serves; an endpoint elsewhere always counts as serving."""
    if models.trouble is not None:
        return Serving(False, models.trouble.reason, models.trouble.message)
    for role, server in models.servers.items():
        if not served_at(server, Type.SERVING):
            said = condition(server, Type.SERVING)
            what, reason = f"model {role}: ModelServer {name_of(server)}", said.get("reason", Reason.PROGRESSING)
            if reason == Reason.PROGRESSING:  # how far it is, its own status says
                return Serving(False, Reason.MODEL_NOT_READY, f"{what} does not serve yet")
            return Serving(False, reason, f"{what}: {said.get('message') or reason}")
    if not models.endpoints:
        return Serving(True, Reason.NOT_REQUIRED, "it names no model; a RolloutJob has to")
    return Serving(True, Reason.AVAILABLE)


def models_trouble(models: Models) -> Trouble | None:
    """What keeps the models from serving and will not end by itself; or what they wait for."""
    if models.trouble is not None:
        return models.trouble
    for role, server in models.servers.items():
        for type, waits in ((Type.STALLED, False), (Type.SUSPENDED, True)):
            said = condition(server, type)
            if said.get("status") == "True" and not holds(server, Type.SERVING):
                told = f"model {role}: ModelServer {name_of(server)}: {said.get('message')}"
                return Trouble(str(said["reason"]), told, waits=waits)
    return None


def _view(snapshot: EnvironmentSnapshot) -> _View:
    environment = snapshot.environment
    rest = resting(
        snapshot.raw,
        suspend=environment.spec.suspend,
        policy=environment.spec.idle_policy,
        active=bool(snapshot.active_jobs),
        last_request=None,
        now=snapshot.now,
    )
    created = seconds(snapshot.raw.get("metadata", {}).get("creationTimestamp")) or 0.0
    models = resolve_models(
        environment.spec.models,
        snapshot.servers,
        snapshot.permitted,
        namespace=environment.metadata.namespace or "default",
        owner=environment.name,
        patient=snapshot.now - created < REFERENCE_GRACE,
    )
    return _View(rest, _workloads(snapshot, rest), models)


def _workloads(snapshot: EnvironmentSnapshot, rest: Rest) -> dict[str, Workload]:
    """The environment's own workloads by component."""
    environment = snapshot.environment
    wanted = wanted_replicas(environment)
    found = {}
    for component, name in _workload_names(environment).items():
        if name not in wanted:
            continue
        pods = labelled(snapshot.pods, labels.selector(environment, component))
        deployment = named(snapshot.children, DEPLOYMENT, name)
        replicas = 0 if rest.rests else _replicas(snapshot, component, wanted[name], deployment)
        found[component] = read_workload(component, name, replicas, deployment, pods, snapshot.now)
    return found


def _replicas(snapshot: EnvironmentSnapshot, component: str, full: int, deployment: Object | None) -> int:
    """What the spec says; where it says nothing, what an autoscaler made of it, but not 0, which was our doing."""
    spec = snapshot.environment.spec
    sandbox = spec.resources.sandbox
    said = {
        Component.AGENT: spec.agent.replicas,
        Component.RESOURCES: spec.resources.replicas,
        Component.SANDBOX: sandbox.replicas if sandbox is not None else None,
    }[component]
    if said is not None or deployment is None:
        return full
    observed = spec_of(deployment).get("replicas")
    return observed if isinstance(observed, int) and observed > 0 else full


def _workload_names(environment: GymEnvironment) -> dict[str, str]:
    return {
        Component.RESOURCES: names.resources(environment.name),
        Component.AGENT: names.agent(environment.name),
        Component.SANDBOX: names.sandbox(environment.name),
    }


def _children(snapshot: EnvironmentSnapshot, view: _View, context: BuildContext) -> ChildActions:
    environment = snapshot.environment
    servers = build_model_servers(environment, context)
    replicas = wanted_replicas(environment)
    free = {
        names.model_server(environment.name, role)
        for role, binding in environment.spec.models.items()
        if binding.server is not None and _scaled_by_others(binding.server)
    }
    if set(environment.spec.models) - set(view.models.endpoints):
        return plan_children(snapshot.raw, servers, snapshot.children, replicas, free=free, prune=False)
    desired = build_environment(environment, view.models.endpoints, context, config_digests=snapshot.config_digests)
    replicas |= {workload.name: workload.wanted for workload in view.workloads.values()}
    actions = plan_children(snapshot.raw, [*servers, *desired], snapshot.children, replicas, free=free)
    secrets = []
    if _lacks_secret(view, Component.RESOURCES):
        secrets.append(build_session_secret(environment, snapshot.token))
    if _lacks_secret(view, Component.SANDBOX):
        secrets.append(build_sandbox_secret(environment, snapshot.token))
    if not secrets:
        return actions
    return ChildActions(
        actions.applies, (*secrets, *actions.creates), actions.scales, actions.deletes, actions.outdated
    )


def _lacks_secret(view: _View, component: str) -> bool:
    """Secrets are never read, so it is made with the first Deployment, and again when the kubelet misses it."""
    workload = view.workloads.get(component)
    if workload is None:
        return False
    missed = workload.trouble is not None and workload.trouble.reason == Reason.CREATE_CONTAINER_CONFIG_ERROR
    return not workload.exists or missed


def _scaled_by_others(server: ModelServerSpec) -> bool:
    """Whether the replicas of an inline ModelServer are set once and then left to whoever scales it."""
    return server.replicas is None or (server.autoscaling is not None and server.autoscaling.mode == "External")


def _serving(snapshot: EnvironmentSnapshot, view: _View, component: str) -> Serving:
    type, part, _ = _PARTS[component]
    workload = view.workloads.get(component)
    sandbox = view.workloads.get(Component.SANDBOX)
    if component == Component.RESOURCES and sandbox is not None and not sandbox.ready and not view.rest.rests:
        reason = sandbox.trouble.reason if sandbox.trouble is not None else Reason.PROGRESSING
        return Serving(False, reason, "no pod of its sandbox is ready")
    if workload is None:
        if view.rest.rests:
            return Serving(False, view.rest.reason, view.rest.message)
        return Serving(True, Reason.NOT_REQUIRED, f"spec.{part}.placement is Worker: it runs in the worker's process")
    served_before = served_at(snapshot.raw, type)
    return read_serving(workload, served_before, snapshot.answers.get(component), view.rest.reason)


def _trouble(snapshot: EnvironmentSnapshot, view: _View) -> Trouble | None:
    troubles = [workload.trouble for workload in view.workloads.values()]
    if not view.rest.rests:
        troubles.append(models_trouble(view.models))
    found = [trouble for trouble in troubles if trouble is not None]
    return min(found, key=lambda trouble: trouble.waits, default=None)


def _conditions(
    view: _View,
    parts: Mapping[str, Serving],
    models: Serving,
    trouble: Trouble | None,
    outdated: tuple[str, ...],
) -> list[Condition]:
    rest, workloads = view.rest, view.workloads.values()
    serves = not rest.rests and models.serves and all(part.serves for part in parts.values())
    first = next((said for said in (models, *parts.values()) if not said.serves), Serving(True, Reason.AVAILABLE))
    if rest.rests:
        done = all(not workload.exists or workload.replicas == 0 for workload in workloads)
        first = Serving(False, rest.reason, rest.message)
    else:
        done = serves and all(workload.full for workload in workloads)
        if serves and not done:
            first = Serving(True, Reason.SCALING, "not all replicas are ready")
    serving = Serving(serves, Reason.AVAILABLE if serves else first.reason, "" if serves else first.message)
    waits = trouble if trouble is not None and trouble.reason == Reason.QUOTA_PENDING else None
    return [
        _said(Type.MODEL_READY, models),
        *(_said(_PARTS[component][0], said) for component, said in parts.items()),
        _said(Type.SERVING, serving),
        *kstatus(done=done, reason=first.reason, message=first.message, trouble=trouble),
        suspended(rest, waits),
        render_outdated(outdated),
    ]


def _said(type: str, serving: Serving) -> Condition:
    return Condition(type, "True" if serving.serves else "False", serving.reason, serving.message)


def _fields(snapshot: EnvironmentSnapshot, view: _View) -> Mapping[str, Any]:
    endpoints = entry_endpoints(snapshot.environment, view.models.endpoints)
    where: dict[str, Any] = {
        "models": {
            role: {"baseUrl": model.base_url, "model": model.model, "kind": model.kind}
            for role, model in sorted(view.models.endpoints.items())
        }
    }
    for part, urls in (("agent", endpoints.agent), ("resources", endpoints.resources)):
        if urls:
            where[part] = urls[0]
    parts: dict[str, Any] = {
        component: {"replicas": workload.wanted, "readyReplicas": workload.ready}
        for component, workload in view.workloads.items()
    }
    owned = [server for role, server in view.models.servers.items() if snapshot.environment.spec.models[role].server]
    if owned:
        parts["models"] = {
            "replicas": sum(int(status_of(server).get("desiredReplicas") or 0) for server in owned),
            "readyReplicas": sum(int(status_of(server).get("readyReplicas") or 0) for server in owned),
        }
    since = view.rest.idle_since
    return {
        "endpoints": where,
        "parts": parts,
        "activeRolloutJobs": len(snapshot.active_jobs),
        "idleSince": rfc3339(since) if since is not None else None,
    }


def _requeue(snapshot: EnvironmentSnapshot, view: _View, parts: Mapping[str, Serving]) -> float | None:
    waits = [view.rest.again_after, unsettled_until(snapshot.pods, snapshot.now)]
    if snapshot.names_config_maps:
        waits.append(CONFIG_MAPS_EVERY)
    if view.models.trouble is not None and view.models.trouble.waits:
        waits.append(REFERENCE_GRACE)
    unproven = [
        component
        for component, said in parts.items()
        if not said.serves and component in view.workloads and view.workloads[component].addresses
    ]
    if unproven and not view.rest.rests:
        waits.append(ASK_AGAIN)
    return min((wait for wait in waits if wait is not None), default=None)
