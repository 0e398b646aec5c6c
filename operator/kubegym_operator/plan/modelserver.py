"""ModelServer: one engine, its replicas, and whether it serves.

=======================================  =============================================  ===========================
seen (first row that fits)               done                                           Ready
=======================================  =============================================  ===========================
more nodes, no LeaderWorkerSet installed everything but the workload                    Stalled
fetch Job failed                         -                                              Stalled, ``FetchFailed``
weights not fetched                      fetch Job created, the workload left as it is  no, ``Progressing``
``suspend``                              0 replicas                                     yes, ``Suspended``
idle for long enough                     0 replicas                                     yes, ``Idle``
``replicas: 0``                          0 replicas                                     yes, ``NoReplicas``
pods wait for quota                      -                                              no, ``QuotaPending``
pods in trouble                          -                                              Stalled, their reason
announced weights do not prove           -                                              Stalled, ``WeightsCorrupt``
pods ready, not asked                    ask one                                        no, ``Progressing``
serves, not all replicas                 -                                              no, ``Scaling``
serves, not all the announced weights    orders to replicas (``plan.weights``)          no, ``UpdatingWeights``
serves                                   -                                              yes, ``Available``
=======================================  =============================================  ===========================

Wanted replicas are a pure function of the spec, the jobs that refer to it, and when it was last used (rule 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubegym_operator.api.conditions import Condition
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import labels, names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import MODEL_PORT
from kubegym_operator.build.labels import Component
from kubegym_operator.build.model import build_fetch_job, build_model_server
from kubegym_operator.build.scale import wanted_replicas
from kubegym_operator.build.sources import exchanged
from kubegym_operator.plan.actions import Object, Patch, Plan, kind_of
from kubegym_operator.plan.children import WORKLOADS, plan_children
from kubegym_operator.plan.failures import Trouble, job_failure, unsettled_until
from kubegym_operator.plan.idle import Rest, resting
from kubegym_operator.plan.objects import (
    JOB,
    LEADER_WORKER_SET,
    MODEL_SERVER,
    condition,
    generation_of,
    holds,
    labelled,
    name_of,
    named,
    namespace_of,
    status_of,
)
from kubegym_operator.plan.queues import QUEUE_EVERY, queue_trouble, waits_for_quota
from kubegym_operator.plan.replicas import Held, follow, needed, room
from kubegym_operator.plan.snapshot import ModelServerSnapshot, Question
from kubegym_operator.plan.status import kstatus, next_status
from kubegym_operator.plan.times import rfc3339, seconds
from kubegym_operator.plan.weights import NO_EXCHANGE, Exchange, good_before, news, plan_exchange, pods_of
from kubegym_operator.plan.workload import Serving, Workload, awaits_answer, read_serving, read_workload

ASK_AGAIN: Final = 2.0
"""Seconds until a part whose pods are ready, but which did not answer, is asked again."""

CONFIG_MAPS_EVERY: Final = 60.0
"""Seconds between two looks at ConfigMaps that a podTemplate names: users' own, which no watch shows (rule 10)."""

MODEL_QUESTION: Final = "/readyz"

_COUNTS: Final = ("replicas", "readyReplicas")


@dataclass(frozen=True, slots=True)
class _View:
    """What follows from a snapshot before anything was asked."""

    workload: Workload
    rest: Rest
    served_before: bool
    missing_kind: bool
    fetch: tuple[Object, ...]
    fetched: bool
    demand: Held | None = None
    exchange: Exchange | None = None


def weights_question(snapshot: ModelServerSnapshot) -> Question | None:
    """What has to be asked of every replica, ready or not, where weights are exchanged."""
    if not exchanged(snapshot.server):
        return None
    pods = pods_of(labelled(snapshot.pods, labels.selector(snapshot.server, Component.MODEL)))
    addresses = tuple(str(address) for pod in pods if (address := status_of(pod).get("podIP")))
    return Question(Component.MODEL, addresses, MODEL_PORT, MODEL_QUESTION) if addresses else None


def model_server_questions(snapshot: ModelServerSnapshot) -> tuple[Question, ...]:
    """What has to be asked before ``plan_model_server`` can tell that it serves."""
    view = _view(snapshot, ())
    if not awaits_answer(view.workload, view.served_before):
        return ()
    return (Question(Component.MODEL, view.workload.addresses, MODEL_PORT, MODEL_QUESTION),)


def plan_model_server(snapshot: ModelServerSnapshot, context: BuildContext) -> Plan:
    """What to do for a ModelServer.

    Raises:
        BuildError: its spec cannot be rendered.
    """
    fetch = tuple(build_fetch_job(snapshot.server, context))
    view = _view(snapshot, fetch, context)
    served = status_of(snapshot.raw).get("policyVersion")
    good = good_before(snapshot.server, snapshot.children, served)
    desired = build_model_server(snapshot.server, context, config_digests=snapshot.config_digests, good=good)
    replicas = {name_of(obj): view.workload.wanted for obj in desired if kind_of(obj) in WORKLOADS}
    if view.missing_kind or not view.fetched:
        desired = [obj for obj in desired if kind_of(obj) not in WORKLOADS]
    actions = plan_children(snapshot.raw, [*fetch, *desired], snapshot.children, replicas, prune=view.fetched)
    answer = snapshot.answers.get(Component.MODEL)
    serving = read_serving(view.workload, view.served_before, answer, view.rest.reason)
    if not view.fetched and not view.rest.rests:
        serving = Serving(False, Reason.PROGRESSING, "the weights are being fetched")
    trouble = _trouble(snapshot, view)
    conditions = _conditions(view, serving, trouble, actions.outdated)
    fields = _fields(snapshot, view, serving)
    status, events = next_status(snapshot.raw, fields, conditions, snapshot.now, counts=_COUNTS)
    exchange = view.exchange or NO_EXCHANGE
    target = fields["targetPolicyVersion"]
    if status is not None and target is not None:
        events += news(snapshot.raw, exchange, target)
    return Plan(
        applies=actions.applies,
        creates=actions.creates,
        patches=_left_to_others(snapshot),
        scales=actions.scales,
        deletes=(*actions.deletes, *exchange.deletes),
        orders=exchange.orders,
        status=status,
        events=events,
        requeue_after=_requeue(snapshot, view, serving),
    )


def _view(snapshot: ModelServerSnapshot, fetch: tuple[Object, ...], context: BuildContext | None = None) -> _View:
    server, raw = snapshot.server, snapshot.raw
    rest = resting(
        raw,
        suspend=server.spec.suspend,
        policy=server.spec.idle_policy,
        active=bool(snapshot.loads),
        last_request=_last_request(snapshot),
        now=snapshot.now,
    )
    (name, full), *_ = wanted_replicas(server).items()
    demand = _demand(snapshot)
    if demand is not None:
        full = demand.replicas
    if not rest.rests and not full:
        rest = Rest(True, Reason.NO_REPLICAS, "spec.replicas is 0", idle_since=rest.idle_since)
    served_before = served_at(raw, Type.SERVING)
    fetched = served_before or all(_complete(snapshot.children, obj) for obj in fetch if kind_of(obj) == JOB)
    workload = next((obj for obj in snapshot.children if kind_of(obj) in WORKLOADS and name_of(obj) == name), None)
    pods = labelled(snapshot.pods, labels.selector(server, Component.MODEL))
    wanted = 0 if rest.rests else full
    exchange = None
    if context is not None and exchanged(server) and wanted:
        exchange = plan_exchange(server, pods_of(pods), snapshot.told, context, snapshot.now)
    return _View(
        workload=read_workload(Component.MODEL, name, wanted, workload, pods, snapshot.now),
        rest=rest,
        served_before=served_before,
        missing_kind=server.spec.parallelism.nodes > 1 and not snapshot.cluster.leader_worker_set,
        fetch=fetch,
        fetched=fetched,
        demand=demand,
        exchange=exchange,
    )


def _left_to_others(snapshot: ModelServerSnapshot) -> tuple[Patch, ...]:
    """The first ``replicas`` of a server that others scale: where the field is missing, so is ``/scale``."""
    scaling, raw = snapshot.server.spec.autoscaling, snapshot.raw
    if scaling is None or scaling.mode != "External" or snapshot.server.spec.replicas is not None:
        return ()
    replicas = max(scaling.min_replicas, 1)
    return (Patch(MODEL_SERVER, namespace_of(raw), name_of(raw), {"spec": {"replicas": replicas}}),)


def _demand(snapshot: ModelServerSnapshot) -> Held | None:
    """What the jobs need, where the spec leaves replicas to them."""
    spec = snapshot.server.spec
    if spec.autoscaling is None or spec.autoscaling.mode != "Demand":
        return None
    held = Held.read(status_of(snapshot.raw).get("demand") or {})
    return follow(held, needed(snapshot.loads, room(spec), spec.autoscaling, held), snapshot.now)


def served_at(raw: Object, type: str) -> bool:
    """Whether the condition says that it has answered since the spec is what it is."""
    said = condition(raw, type)
    return said.get("status") == "True" and said.get("observedGeneration") == generation_of(raw)


def _complete(children: tuple[Object, ...], job: Object) -> bool:
    found = named(children, JOB, name_of(job))
    return found is not None and holds(found, "Complete")


def _trouble(snapshot: ModelServerSnapshot, view: _View) -> Trouble | None:
    if view.missing_kind:
        nodes = snapshot.server.spec.parallelism.nodes
        return Trouble(
            Reason.LEADER_WORKER_SET_NOT_INSTALLED,
            f"spec.parallelism.nodes is {nodes}, which needs LeaderWorkerSet "
            f"({LEADER_WORKER_SET.api_version}): install it, or set nodes to 1",
        )
    pods = labelled(snapshot.pods, labels.selector(snapshot.server, Component.FETCHER))
    for job in view.fetch:
        found = named(snapshot.children, JOB, name_of(job)) if kind_of(job) == JOB else None
        failure = job_failure(found, pods) if found is not None else None
        if failure is not None:
            return Trouble(Reason.FETCH_FAILED, failure.message)
    queue, trouble = snapshot.server.spec.queue, view.workload.trouble
    if view.exchange is not None and view.exchange.trouble is not None:
        trouble = view.exchange.trouble
    if queue is not None and (waits_for_quota(trouble) or not snapshot.cluster.kueue):
        return queue_trouble(snapshot.raw, queue.name, snapshot.cluster, snapshot.now) or trouble
    return trouble


def _conditions(view: _View, serving: Serving, trouble: Trouble | None, outdated: tuple[str, ...]) -> list[Condition]:
    workload, rest = view.workload, view.rest
    rested = rest.rests and (not workload.exists or workload.replicas == 0)
    exchange = view.exchange or NO_EXCHANGE
    done = rested or (serving.serves and workload.full and not exchange.behind)
    reason, message = serving.reason, serving.message
    if rest.rests:
        reason, message = rest.reason, rest.message
    elif serving.serves and not workload.full:
        reason, message = Reason.SCALING, f"{workload.ready} of {workload.wanted} replicas are ready"
    if not rest.rests and exchange.behind:
        reason = Reason.UPDATING_WEIGHTS
        message = f"{exchange.behind} of {workload.wanted} replicas do not serve the announced weights yet"
    waits = waits_for_quota(workload.trouble)
    return [
        Condition(Type.SERVING, "True" if serving.serves else "False", serving.reason, serving.message),
        *kstatus(done=done, reason=reason, message=message, trouble=trouble),
        suspended(rest, trouble if waits else None),
        render_outdated(outdated),
    ]


def suspended(rest: Rest, waiting: Trouble | None) -> Condition:
    """The condition Suspended: asked for, or waiting for quota."""
    if rest.rests and rest.reason == Reason.SUSPENDED:
        return Condition(Type.SUSPENDED, "True", Reason.SUSPENDED, rest.message)
    if waiting is not None:
        return Condition(Type.SUSPENDED, "True", waiting.reason, waiting.message)
    return Condition(Type.SUSPENDED, "False", Reason.NOT_SUSPENDED)


def render_outdated(outdated: tuple[str, ...]) -> Condition:
    """The condition RenderOutdated, with how to end it."""
    if not outdated:
        return Condition(Type.RENDER_OUTDATED, "False", Reason.UP_TO_DATE)
    return Condition(
        Type.RENDER_OUTDATED,
        "True",
        Reason.OUTDATED,
        f"rendered by an older operator, and left so: {', '.join(outdated)}. "
        "The annotation kubegym.dev/render: latest renders them anew, which restarts pods",
    )


def _fields(snapshot: ModelServerSnapshot, view: _View, serving: Serving) -> Mapping[str, Any]:
    stored = status_of(snapshot.raw)
    answer = snapshot.answers.get(Component.MODEL)
    weights = snapshot.server.spec.weights
    version = answer.policy_version if answer is not None else None
    if view.exchange is not None:
        version = view.exchange.version
    last = _last_request(snapshot)
    selector = labels.selector(snapshot.server, Component.MODEL)
    server = snapshot.server
    service = names.model_service(server.name)
    return {
        "replicas": view.workload.replicas,
        "readyReplicas": view.workload.ready,
        "desiredReplicas": view.workload.wanted,
        "demand": view.demand.to_dict() if view.demand is not None and not view.rest.rests else None,
        "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        "endpoint": names.url(service, server.metadata.namespace or "default", MODEL_PORT),
        "policyVersion": version if version is not None else stored.get("policyVersion"),
        "targetPolicyVersion": weights.version if weights is not None else None,
        "idleSince": rfc3339(view.rest.idle_since) if view.rest.idle_since is not None else None,
        "lastRequestTime": rfc3339(last) if last is not None else None,
    }


def _last_request(snapshot: ModelServerSnapshot) -> float | None:
    told = [a.last_request for a in snapshot.answers.values() if a.last_request is not None]
    stored = seconds(status_of(snapshot.raw).get("lastRequestTime"))
    return max([*told, *([stored] if stored is not None else [])], default=None)


def _requeue(snapshot: ModelServerSnapshot, view: _View, serving: Serving) -> float | None:
    held = view.demand.left(snapshot.now) if view.demand is not None and not view.rest.rests else None
    waits = [view.rest.again_after, held, unsettled_until(snapshot.pods, snapshot.now)]
    if view.exchange is not None:
        waits.append(view.exchange.requeue_after)
    if snapshot.names_config_maps:
        waits.append(CONFIG_MAPS_EVERY)
    queued = snapshot.server.spec.queue is not None
    if view.missing_kind:
        waits.append(QUEUE_EVERY)
    if queued and (waits_for_quota(view.workload.trouble) or not snapshot.cluster.kueue):
        waits.append(QUEUE_EVERY)
    if not serving.serves and view.workload.wanted and view.workload.addresses:
        waits.append(ASK_AGAIN)
    return min((wait for wait in waits if wait is not None), default=None)
