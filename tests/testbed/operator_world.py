"""A small cluster in memory: the API server's twin, the real controller and executor, and controllers' stand-ins.

``settle`` reconciles until nothing is due any more; ``kubelet`` does what Kubernetes' own controllers would do next.
Time moves only by ``pass_time``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubegym_operator.api.status import GymEnvironmentStatus, ModelServerStatus, ObjectStatus, RolloutJobStatus
from kubegym_operator.build.context import BuildContext
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.kinds import KindInfo
from kubegym_operator.kube.memory import MemoryKube, Write
from kubegym_operator.kube.protocol import Kind, Object, key_of
from kubegym_operator.plan.actions import Order
from kubegym_operator.plan.objects import conditions_of, labels_of, spec_of, status_of
from kubegym_operator.plan.snapshot import Answer, Progress, Question, Told
from kubegym_operator.plan.times import rfc3339
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.controller import Controller
from kubegym_operator.reconcile.executor import Executor
from kubegym_operator.reconcile.keys import Key, Result
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.observe import Observer
from kubegym_operator.reconcile.references import INDICES, dependants
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB, WATCHED
from testbed.operator_manifests import environment, rollout_job

NAMESPACE = "team"
START = 1_767_225_600.0  # when the twin says that everything was created
DEPLOYMENT = Kind("apps/v1", "Deployment")
LEADER_WORKER_SET = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
JOB = Kind("batch/v1", "Job")
POD = Kind("v1", "Pod")
CONFIG_MAP = Kind("v1", "ConfigMap")
EVENT = Kind("events.k8s.io/v1", "Event")
SERVICE = Kind("v1", "Service")
QUEUE = Kind("kueue.x-k8s.io/v1beta1", "LocalQueue")

_REPLICAS = ("spec", "replicas")
_NEW = {"observedGeneration": -1}  # the CRDs' default
OWN_KINDS = (
    KindInfo(MODEL_SERVER, replicas=_REPLICAS, initial_status=_NEW),
    KindInfo(GYM_ENVIRONMENT, initial_status=_NEW),
    KindInfo(
        ROLLOUT_JOB,
        replicas=("spec", "parallelism"),
        defaults={("spec", "parallelism"): 1},
        initial_status=_NEW,
    ),
)
_STATUS: dict[str, type[ObjectStatus]] = {
    MODEL_SERVER.kind: ModelServerStatus,
    GYM_ENVIRONMENT.kind: GymEnvironmentStatus,
    ROLLOUT_JOB.kind: RolloutJobStatus,
}
LWS_KIND = KindInfo(LEADER_WORKER_SET, replicas=_REPLICAS, defaults={_REPLICAS: 1})


@dataclass
class ManualClock:
    """Wall-clock time that only tests move."""

    at: float = START

    def time(self) -> float:
        """Now."""
        return self.at


class OpenFence:
    """A lease that is always fresh."""

    def check(self) -> None:
        """Fine."""


@dataclass
class Answers:
    """Stands in for pods: answers probes and tells progress.

    Attributes:
        bad: components whose servers answer badly, with their words.
        progress: what a worker tells.
        asked: every question so far.
        read: how often progress was asked for.
        told: what replicas say of their weights, by address.
        orders: every order so far.
    """

    bad: dict[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    asked: list[Question] = field(default_factory=list)
    reads: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)

    async def tell(self, question: Question) -> dict[str, Told]:
        """See Prober."""
        return {address: self.told[address] for address in question.addresses if address in self.told}

    async def give(self, order: Order) -> None:
        """See Control."""
        self.orders.append(order)

    async def ask(self, question: Question) -> Answer:
        """See Prober."""
        self.asked.append(question)
        words = self.bad.get(question.component)
        return Answer(True) if words is None else Answer(False, words)

    async def read(self, addresses: Sequence[str]) -> Progress | None:
        """See ProgressReader."""
        self.reads += 1
        return self.progress


class World:
    """One operator over one cluster in memory."""

    def __init__(
        self, *installed: KindInfo, context: BuildContext | None = None, kube: MemoryKube | None = None
    ) -> None:
        self.kube = kube or MemoryKube((*OWN_KINDS, *installed))
        self.clock = ManualClock()
        self.answers = Answers()
        self.due: dict[Key, float] = {}
        self.wrote: list[Write] = []
        self.context = BuildContext()
        self._unwatch = self.kube.watch(self._saw)
        self.start()

    def start(self, context: BuildContext | None = None) -> None:
        """Start the operator, which knows nothing but what lies in the cluster."""
        self.context = context or self.context
        self.cache = Cache(INDICES, revision=self.context.render_revision)
        self.observer = Observer(self.cache, self.kube, self.answers, self.answers, self.clock)
        events = EventRecorder(self.kube, self.clock, "test")
        self.executor = Executor(self.kube, self.cache, OpenFence(), TokenBucket(1e6, 10**6), events, self.answers)
        self.controller = Controller(self.cache, self.observer, self.executor, self.context)
        self.due = {}
        for key, stored in sorted(self.kube._objects.items()):
            if key.kind in WATCHED:
                self.cache.put(stored.obj)
        for key, stored in sorted(self.kube._objects.items()):
            if key.kind in WATCHED:
                self._mark(stored.obj)

    async def apply(self, *objects: Mapping[str, Any], manager: str = "user") -> None:
        """Apply objects as a user would."""
        for obj in objects:
            mine = copy.deepcopy(dict(obj))
            mine["metadata"].setdefault("namespace", NAMESPACE)
            await self.kube.apply(mine, manager=manager)

    async def settle(self, *, most: int = 300) -> None:
        """Reconcile until nothing is due now."""
        for _ in range(most):
            ready = sorted(key for key, at in self.due.items() if at <= self.clock.at)
            if not ready:
                return
            key = ready[0]
            del self.due[key]
            result = await self.reconcile(key)
            if result.requeue_after is not None:
                self._later(key, self.clock.at + max(result.requeue_after, 0.001))
        raise AssertionError(f"not settled after {most} reconciliations; due: {sorted(self.due)}")

    async def reconcile(self, key: Key) -> Result:
        """One reconciliation; what it writes is kept in ``wrote``."""
        before = len(self.kube.writes)
        try:
            return await self.controller.reconcile(key)
        finally:
            self.wrote += self.kube.writes[before:]

    async def live(self, *, most: int = 20) -> None:
        """Reconcile and let the cluster act, in turns, until neither has anything to do."""
        for _ in range(most):
            before = self.version
            await self.settle()
            await self.kubelet()
            if self.version == before and not self._ready():
                return
        raise AssertionError("it does not come to rest")

    async def restart(self, context: BuildContext | None = None) -> list[Write]:
        """Start the operator again and let it look at everything; what it writes upon that."""
        self.start(context)
        self.wrote.clear()
        await self.settle()
        return list(self.wrote)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what becomes due at its end."""
        self.clock.at += seconds
        await self.live()

    async def get(self, kind: Kind, name: str) -> Object:
        """An object that has to exist."""
        found = await self.kube.get(kind, NAMESPACE, name)
        assert found is not None, f"there is no {kind.kind} {name}"
        return found

    async def exists(self, kind: Kind, name: str) -> bool:
        """Whether it does."""
        return await self.kube.get(kind, NAMESPACE, name) is not None

    async def condition(self, kind: Kind, name: str, type: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = [c for c in conditions_of(await self.get(kind, name)) if c["type"] == type]
        assert found, f"{kind.kind} {name} has no condition {type}"
        return found[0]["status"], found[0]["reason"]

    async def message(self, kind: Kind, name: str, type: str) -> str:
        """The message of a condition."""
        return next(str(c["message"]) for c in conditions_of(await self.get(kind, name)) if c["type"] == type)

    async def set_status(self, kind: Kind, name: str, status: Object) -> None:
        """Write a status as one of Kubernetes' controllers."""
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name, "namespace": NAMESPACE}}
        await self.kube.apply_status({**obj, "status": status}, manager="kube")

    async def edit(self, kind: Kind, name: str, spec: Object) -> None:
        """Patch the spec as a user would."""
        await self.kube.patch(kind, NAMESPACE, name, {"spec": spec})

    # Stand-ins of Kubernetes' controllers

    async def kubelet(self) -> None:
        """Deployments get their pods, Jobs theirs; all become ready at once."""
        for deployment in await self.kube.list(DEPLOYMENT):
            await self._run_deployment(deployment)
        for job in await self.kube.list(JOB):
            await self._run_job(job)

    async def _run_deployment(self, deployment: Object) -> None:
        name, wanted = deployment["metadata"]["name"], spec_of(deployment).get("replicas", 1)
        await self._pods(deployment, wanted)
        if "hold" in (await self.get(DEPLOYMENT, name))["metadata"].get("annotations", {}):
            return
        await self.set_status(
            DEPLOYMENT,
            name,
            {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": wanted,
                "updatedReplicas": wanted,
                "readyReplicas": wanted,
            },
        )

    async def _run_job(self, job: Object) -> None:
        status = status_of(job)
        if any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in status.get("conditions", ())):
            return
        spec, name = spec_of(job), job["metadata"]["name"]
        if spec.get("suspend"):
            await self._pods(job, 0)
            stopped = {"type": "Suspended", "status": "True", "lastTransitionTime": rfc3339(self.clock.at)}
            if not any(c["type"] == "Suspended" and c["status"] == "True" for c in status.get("conditions", ())):
                await self.set_status(JOB, name, {"conditions": [stopped]})
            return
        await self._pods(job, spec["parallelism"])
        new = {
            "startTime": status.get("startTime") or rfc3339(self.clock.at),
            "active": spec["parallelism"],
            "ready": spec["parallelism"],
        }
        await self.set_status(JOB, name, new)

    async def _pods(self, owner: Object, wanted: int) -> None:
        template = spec_of(owner)["template"]
        name, labels = owner["metadata"]["name"], template["metadata"]["labels"]
        there = [p for p in await self.kube.list(POD) if p["metadata"]["name"].startswith(f"{name}-pod-")]
        for pod in there[wanted:]:
            await self.kube.delete(POD, NAMESPACE, pod["metadata"]["name"])
        for index in range(len(there), wanted):
            reference = {k: owner[k] for k in ("apiVersion", "kind")} | {"name": name, "uid": owner["metadata"]["uid"]}
            metadata = {
                "name": f"{name}-pod-{index}",
                "namespace": NAMESPACE,
                "labels": labels,
                "ownerReferences": [reference],
            }
            await self.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}})
            await self.set_status(POD, f"{name}-pod-{index}", running_pod(index))

    async def finish_job(self, name: str, *, words: str = "") -> None:
        """Let a Job complete; its pods leave last words."""
        await self._end_pods(name, 0, words)
        done = {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(self.clock.at)}
        await self.set_status(JOB, name, {"succeeded": 1, "conditions": [done]})

    async def fail_job(
        self, name: str, *, code: int = 1, words: str = "", reason: str = "BackoffLimitExceeded"
    ) -> None:
        """Let a Job fail; its pods leave last words."""
        await self._end_pods(name, code, words)
        failed = {"type": "Failed", "status": "True", "reason": reason, "message": "it failed"}
        await self.set_status(JOB, name, {"failed": 1, "conditions": [failed]})

    async def _end_pods(self, job: str, code: int, words: str) -> None:
        for pod in await self.kube.list(POD):
            if pod["metadata"]["name"].startswith(f"{job}-pod-"):
                ended = {"exitCode": code, "message": words, "finishedAt": rfc3339(self.clock.at)}
                containers = [{"name": "worker", "ready": False, "restartCount": 0, "state": {"terminated": ended}}]
                status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": containers}
                await self.set_status(POD, pod["metadata"]["name"], status)

    @property
    def version(self) -> int:
        """Grows with everything that changes in the cluster."""
        return self.kube._version

    # The watch

    def _saw(self, event: str, obj: Object) -> None:
        if key_of(obj).kind not in WATCHED or not _ours(obj):
            return
        if (
            obj.get("status", _NEW) != _NEW and obj["kind"] in _STATUS
        ):  # the real server refuses what the schema has not
            _STATUS[obj["kind"]].model_validate(obj["status"])
        if event == "DELETED":
            self.cache.remove(obj)
        else:
            self.cache.put(obj)
        self._mark(obj)

    def _mark(self, obj: Object) -> None:
        for key in dependants(self.cache, obj):
            self.due[key] = 0.0

    def _later(self, key: Key, at: float) -> None:
        self.due[key] = min(at, self.due.get(key, at))

    def _ready(self) -> bool:
        return any(at <= self.clock.at for at in self.due.values())


def _ours(obj: Object) -> bool:
    own = obj["kind"] in (MODEL_SERVER.kind, GYM_ENVIRONMENT.kind, ROLLOUT_JOB.kind)
    return own or labels_of(obj).get("app.kubernetes.io/managed-by") == "kubegym"


def running_pod(index: int = 0) -> Object:
    """The status of a pod that runs and is ready."""
    return {
        "phase": "Running",
        "podIP": f"10.0.0.{index + 1}",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "state": {"running": {}}}],
    }


def with_revision(context: BuildContext, revision: str) -> BuildContext:
    """The context of a newer operator."""
    return replace(context, render_revision=revision)


async def running(*objects: Object, world: World | None = None, **spec: Any) -> World:
    """A world in which the run ``run`` collects."""
    world = world or World()
    await world.apply(*(objects or (environment(),)), rollout_job(**spec))
    await world.live()
    return world


async def run_condition(world: World, type: str) -> tuple[str, str]:
    """Status and reason of a condition of the run ``run``."""
    return await world.condition(ROLLOUT_JOB, "run", type)
