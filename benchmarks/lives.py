"""What single objects cost on a real API server: writes in the lives of environments and jobs, and how soon pods come.

Fake nodes run the pods, and this program answers in their place. Environments come with a model server of their own or
use a model elsewhere; each then gets a RolloutJob. The pods of a bare Job with the same template, created in turns with
them, are what Kubernetes alone takes. In the end many jobs run at a time, and progress moves with every look.

usage: python -m benchmarks.lives ENVIRONMENTS RUNNING_JOBS
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import yaml

from benchmarks.changes import Watcher, session_of
from benchmarks.figures import ROOT, Figure, report, scratch
from benchmarks.operator import ROOMY, each, say
from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.config import load
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.objects import holds
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MANAGED, MODEL_SERVER, ROLLOUT_JOB
from testbed.k8s.control_plane import ControlPlane, control_plane
from testbed.k8s.kwok import POD_IP
from testbed.k8s.pods import Pods
from testbed.operator_manifests import DONE, environment, rollout_job
from testbed.operator_process import OperatorProcess
from testbed.pod_answers import PROGRESS, pod_answers

PODS_OF_A_NODE = 500
RUNNING_SECONDS = 90.0
SETTLING_SECONDS = 45.0
TEAM = "lives"
CHILDREN = (
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
)


class Lives:
    """A namespace with the operator, and what happens in it."""

    def __init__(self, plane: ControlPlane, api: KubeClient, address: str) -> None:
        self.plane = plane
        self.api = api
        self.address = address
        self.pods = Pods(plane.api)
        self.seen: dict[str, asyncio.Future[float]] = {}

    def note(self, pod: Object, now: float) -> None:
        """A watch shows a pod of a Job."""
        job = (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name")
        if job and not (first := self.created(job)).done():
            first.set_result(now)

    def created(self, job: str) -> asyncio.Future[float]:
        """When the watch showed a Job's first pod, on the loop's clock."""
        return self.seen.setdefault(job, asyncio.get_running_loop().create_future())

    def template(self) -> Object:
        return {"podTemplate": {"metadata": {"annotations": {POD_IP: self.address}}}}

    def environment(self, number: int, *, served: bool) -> Object:
        """An environment whose pods this program answers for."""
        server = {"engine": "simulated", "replicas": 1, **self.template()}
        endpoint = {"baseUrl": "https://models.example.com/v1", "model": "policy"}
        spec = {
            "models": {"policy": {"server": server} if served else {"endpoint": endpoint}},
            "resources": {"replicas": 1, **self.template()},
            "agent": {"replicas": 1, **self.template()},
        }
        return placed(environment(f"env-{number}", **spec))

    def job(self, name: str, number: int) -> Object:
        """A job on the environment of a number."""
        output = {"uri": f"s3://runs/{name}/"}
        return placed(rollout_job(name, (f"env-{number}",), output=output, worker=self.template()))

    async def writes(self) -> Counter[str]:
        """What the operator wrote in the namespace, by resource and subresource."""
        found = await asyncio.to_thread(self.plane.writes, "kubegym-operator")
        refs = [event["objectRef"] for event in found if event.get("objectRef", {}).get("namespace") == TEAM]
        return Counter("/".join(filter(None, (ref["resource"], ref.get("subresource")))) for ref in refs)

    async def children(self) -> int:
        """How many children of ours there are, ModelServers among them."""
        found = [len(await self.api.list(kind, TEAM, labels=MANAGED)) for kind in CHILDREN]
        return sum(found) + len(await self.api.list(MODEL_SERVER, TEAM))

    async def until(self, what: str, done: Callable[[], Any]) -> None:
        """Wait for something that a request tells."""
        late = time.monotonic() + 600
        while not await done():
            if time.monotonic() > late:
                raise TimeoutError(what)
            await asyncio.sleep(0.2)

    async def all(self, kind: tuple[str, str], type: str) -> bool:
        """Whether a condition holds of all objects of a kind."""
        return all(holds(obj, type) for obj in await self.api.list(kind, TEAM))


def placed(obj: Object) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "namespace": TEAM}}


def bare_job(name: str, like: Object) -> Object:
    """A Job with the pods of another."""
    spec = {key: value for key, value in like["spec"].items() if key not in ("selector", "suspend")}
    template = json.loads(json.dumps(spec["template"]))
    ours = ("batch.kubernetes.io/", "controller-uid", "job-name", "kubegym.dev/", "app.kubernetes.io/")
    labels = {k: v for k, v in template["metadata"]["labels"].items() if not k.startswith(ours)}
    template["metadata"] = {"labels": labels, "annotations": template["metadata"].get("annotations") or {}}
    metadata = {"name": name, "namespace": TEAM}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**spec, "template": template, "manualSelector": False},
    }


async def environments(lives: Lives, count: int, *, served: bool, first: int) -> list[Figure]:
    """From apply to Serving."""
    before, had = await lives.writes(), await lives.children()
    made = [lives.environment(first + number, served=served) for number in range(count)]
    await each(lambda obj=obj: lives.api.create(obj) for obj in made)  # type: ignore[misc]
    await lives.until("all serve", lambda: lives.all(GYM_ENVIRONMENT, "Serving"))
    await asyncio.sleep(5)  # what is written after it served belongs to it, too
    wrote, children = await lives.writes() - before, (await lives.children() - had) / count
    say(f"environments, served {served}: {dict(wrote)}")
    events = wrote.pop("events", 0)
    total = wrote.total() / count
    what = "with a ModelServer of its own" if served else "with a model elsewhere"
    return [
        Figure(f"environment {what}: children", children, ""),
        Figure(f"environment {what}: API writes until Serving beyond its children", total - children, "writes", 6.0),
        Figure(f"environment {what}: events until Serving", events / count, "writes"),
    ]


async def jobs(lives: Lives, count: int) -> list[Figure]:
    """From apply to pods in turns with bare Jobs, then to the manifest."""
    loop = asyncio.get_running_loop()
    before, had, ours, bare = await lives.writes(), await lives.children(), [], []
    for number in range(count):
        name = f"run-{number}"
        began = loop.time()
        await lives.api.create(lives.job(name, number))
        ours.append(await lives.created(name) - began)
        like = await lives.api.get(("batch/v1", "Job"), TEAM, name)
        assert like is not None
        began = loop.time()
        await lives.api.create(bare_job(f"bare-{number}", like))
        bare.append(await lives.created(f"bare-{number}") - began)
    names = [f"run-{number}" for number in range(count)]
    await finish(lives, names)
    wrote = await lives.writes() - before
    say(f"jobs: {dict(wrote)}")
    events, own = wrote.pop("events", 0), wrote.pop("rolloutjobs/status", 0)
    used = wrote.pop("gymenvironments/status", 0) + wrote.pop("modelservers/status", 0)
    children = await lives.children() - had
    beyond = [mine - theirs for mine, theirs in zip(ours, bare, strict=True)]
    return [
        Figure("a RolloutJob's pods created after", statistics.median(ours), "s"),
        Figure("a bare Job's pods created after", statistics.median(bare), "s"),
        Figure("beyond a bare Job, median", statistics.median(beyond), "s", 1.0),
        Figure("beyond a bare Job, longest", max(beyond), "s", 1.0),
        Figure("a job's life: children, its Jobs among them", children / count, ""),
        Figure("a job's life: API writes of it beyond them", (own + wrote.total() - children) / count, "writes", 5.0),
        Figure("a job's life: API writes of the status of what it uses", used / count, "writes"),
        Figure("a job's life: events", events / count, "writes"),
    ]


async def finish(lives: Lives, names: list[str]) -> None:
    """Let workers and finalisers end well."""
    for name in names:
        await lives.until(f"{name} collects", lambda name=name: holds_of(lives, name, "Progressing"))  # type: ignore[misc]
    for suffix, words in (("", ""), ("-finalise", json.dumps(DONE))):
        for name in names:
            found = await asyncio.to_thread(
                lives.pods.wait, TEAM, f"batch.kubernetes.io/job-name={name}{suffix}", seconds=300
            )
            for pod in found:
                await asyncio.to_thread(lives.pods.succeed, TEAM, pod["metadata"]["name"], words)
    for name in names:
        await lives.until(f"{name} is complete", lambda name=name: holds_of(lives, name, "Complete"))  # type: ignore[misc]


async def holds_of(lives: Lives, name: str, type: str) -> bool:
    found = await lives.api.get(ROLLOUT_JOB, TEAM, name)
    return found is not None and holds(found, type)


async def running(lives: Lives, count: int) -> list[Figure]:
    """Many jobs at a time, whose figures move with every look."""
    names = [f"many-{number}" for number in range(count)]
    await each(lambda name=name: lives.api.create(lives.job(name, 0)) for name in names)  # type: ignore[misc]

    async def collecting() -> bool:
        found = [obj for obj in await lives.api.list(ROLLOUT_JOB, TEAM) if obj["metadata"]["name"] in set(names)]
        return sum(holds(obj, "Progressing") for obj in found) == count

    moving = asyncio.create_task(move())
    await lives.until("all collect", collecting)
    say(f"{count} jobs collect")
    await asyncio.sleep(SETTLING_SECONDS)
    before = await lives.writes()
    await asyncio.sleep(RUNNING_SECONDS)
    wrote = await lives.writes() - before
    moving.cancel()
    say(f"running: {dict(wrote)}")
    rate = wrote.total() / RUNNING_SECONDS
    return [
        Figure(f"{count} running jobs: API writes", rate, "writes/s", 20.0),
        Figure(f"{count} running jobs: API writes of each in 30 s", 30.0 * rate / count, "writes", 1.0),
    ]


async def move() -> None:
    """Let the figures grow that workers tell."""
    rollouts: dict[str, int] = PROGRESS["rollouts"]  # type: ignore[assignment]
    rollouts["expected"] = 10**9
    while True:
        await asyncio.sleep(0.5)
        rollouts["scored"] += 1


async def measure(plane: ControlPlane, count: int, many: int, address: str) -> None:
    """Report all figures, one group after the other."""
    lease = {"lease_duration_seconds": 300, "lease_renew_seconds": 240}
    operator = OperatorProcess(plane.kubeconfig, scratch(), **lease)
    async with AsyncExitStack() as stack:
        stack.callback(operator.kill)
        api = await stack.enter_async_context(
            KubeClient(await load(plane.kubeconfig), manager="benchmark", agent="benchmark")
        )
        session, server = await stack.enter_async_context(session_of(plane.kubeconfig))
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}})
        await asyncio.to_thread(operator.start)
        await asyncio.to_thread(operator.await_leading)
        lives = Lives(plane, api, address)
        watcher = Watcher(session, f"{server}/api/v1/namespaces/{TEAM}/pods", lives.note)
        stack.push_async_callback(watcher.end)
        await watcher.begun()
        report(await environments(lives, count, served=False, first=0))
        report(await environments(lives, count, served=True, first=count))
        report(await jobs(lives, count))
        report(await running(lives, many))


def main() -> None:
    """Start a control plane, measure, report."""
    count, many = int(sys.argv[1]), int(sys.argv[2])
    with control_plane(environment=ROOMY) as plane, pod_answers() as address:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            plane.api.create(yaml.safe_load(path.read_text()))
        nodes = 1 + (many + 6 * count) // PODS_OF_A_NODE
        plane.add_nodes("lives", nodes, pods=PODS_OF_A_NODE + 100, cpu="4096", memory="16Ti")
        asyncio.run(measure(plane, count, many, address))


if __name__ == "__main__":
    main()
