"""The operator on a real API server with thousands of objects: what it writes, how much it holds, how soon it knows.

Half of the objects are GymEnvironments that are suspended, so that they have all of their children and no pods; half
are RolloutJobs. Fake pods with an owner's labels fill up to twelve and a half children an object, and foreign pods
without our label stand for everybody else's.

Figures: writes in a steady state; from a restart until every object has been looked at; resident memory; from a change
of a spec to the status that has seen it, at a rate; what foreign pods cost. The control plane, this program and the
operator share the machine's cores, so that times grow with its load: the operator's own CPU time is told beside them.

usage: python -m benchmarks.operator OBJECTS FOREIGN CHANGES_PER_SECOND
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.changes import Change, Latencies, change, paced
from benchmarks.figures import ROOT, Figure, cpu_of, report, rss, scratch
from kubegym_operator.kube.client import KubeClient
from kubegym_operator.kube.config import load
from kubegym_operator.kube.errors import KubeError
from kubegym_operator.kube.protocol import Object
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MANAGED, ROLLOUT_JOB
from testbed.k8s.control_plane import ControlPlane, control_plane
from testbed.operator_process import OperatorProcess

NAMESPACES = 20
CHILDREN_EACH = 12.5
STEADY_SECONDS = 60.0
CHANGING_SECONDS = 30.0
FOREIGN_SECONDS = 20.0
FOREIGN_EVENTS_PER_SECOND = 200
QUIET_SECONDS = 35.0  # words about waiting are written every 30 s at most, and may be due
AT_ONCE = 16
MEBI = 2**20 / 1e6
ROOMY = {"GOGC": "400"}  # the API server shares the cores: it may use memory instead of collecting garbage
PLURALS = {GYM_ENVIRONMENT: "gymenvironments", ROLLOUT_JOB: "rolloutjobs"}
POD = ("v1", "Pod")
WRITES = ("create", "apply", "apply_status", "patch", "scale", "delete")


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}: {words}", file=sys.stderr, flush=True)


def environment(number: int) -> Object:
    """A suspended environment: all of its children, no pods."""
    endpoint = {"baseUrl": "https://models.example.com/v1", "model": "policy"}
    return {
        "apiVersion": GYM_ENVIRONMENT.api_version,
        "kind": GYM_ENVIRONMENT.kind,
        "metadata": {"name": f"env-{number}", "namespace": f"team-{number % NAMESPACES}"},
        "spec": {"suspend": True, "models": {"policy": {"endpoint": endpoint}}},
    }


def job(number: int) -> Object:
    """A suspended job on the environment of its number."""
    dataset = {"uri": "s3://bucket/rows.jsonl"}
    entry = {"name": "main", "environmentRef": {"name": f"env-{number}"}, "dataset": dataset}
    return {
        "apiVersion": ROLLOUT_JOB.api_version,
        "kind": ROLLOUT_JOB.kind,
        "metadata": {"name": f"job-{number}", "namespace": f"team-{number % NAMESPACES}"},
        "spec": {
            "suspend": True,
            "environments": [entry],
            "rolloutsPerTask": 8,
            "output": {"uri": f"s3://bucket/runs/{number}/"},
        },
    }


def pod(number: int, namespace: str, labels: dict[str, str]) -> Object:
    """A pod that no node will ever run."""
    container = {"name": "main", "image": "none", "env": [{"name": f"V{n}", "value": "x" * 40} for n in range(20)]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{number}", "namespace": namespace, "labels": labels},
        "spec": {"containers": [container], "schedulingGates": [{"name": "benchmark.kubegym.dev/never"}]},
    }


async def each(work: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Do it all, some at once, and again what fails in passing."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(request: Callable[[], Awaitable[Any]]) -> None:
        async with gate:
            for attempt in range(20):
                try:
                    await request()
                    return
                except KubeError as error:
                    if error.reason == "AlreadyExists":
                        return
                    if not error.retryable or attempt == 19:
                        raise
                    await asyncio.sleep(0.5)

    await asyncio.gather(*(one(request) for request in work))


class Bench:
    """A control plane with an operator, and what is measured there."""

    def __init__(self, api: KubeClient, operator: OperatorProcess) -> None:
        self.api = api
        self.operator = operator

    async def writes(self) -> float:
        """Writes of the operator in its present life, without its lease."""
        return sum([await self.metric("kubegym_api_requests_total", verb=verb) for verb in WRITES])

    async def quiet(self, seconds: float = QUIET_SECONDS) -> None:
        """Wait until nothing is due and nothing has been written for so long."""
        while True:
            before = await self.writes()
            await asyncio.sleep(seconds)
            if await self.writes() == before and await self.idle():
                return

    async def idle(self) -> bool:
        """Whether everything is known and nothing is due or in work. This asks for no figures of objects."""
        said = await self.health()
        return bool(said["leading"] and said["lastResyncAge"] is not None and not said["queueDepth"]) and (
            said["oldestKeyAge"] == 0.0
        )

    async def rest(self) -> None:
        """Wait until the operator uses hardly any CPU: its watches have listed everything, too."""
        while True:
            before = cpu_of(self.operator.pid)
            await asyncio.sleep(3)
            if cpu_of(self.operator.pid) - before < 0.15:
                return

    async def health(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.operator.health)

    async def metric(self, family: str, **labels: str) -> float:
        return await asyncio.to_thread(lambda: self.operator.metric(family, **labels))

    async def populate(self, objects: int) -> None:
        """Create everything and wait until the operator has made what is missing."""
        spaces = [f"team-{number}" for number in range(NAMESPACES)]
        made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces]
        await each(lambda obj=obj: self.api.create(obj) for obj in made)  # type: ignore[misc]
        half = objects // 2
        ours = [make(number) for number in range(half) for make in (environment, job)]
        await each(lambda obj=obj: self.api.create(obj) for obj in ours)  # type: ignore[misc]
        say(f"created {len(ours)} objects")
        await self.quiet()

    async def fill(self, objects: int) -> int:
        """Fake pods of ours up to the number of children; the number of children."""
        children = 0
        for kind in (("v1", "Service"), ("apps/v1", "Deployment"), ("v1", "ServiceAccount"), ("v1", "ConfigMap")):
            children += len(await self.api.list(kind, labels=MANAGED))
        for kind in (("networking.k8s.io/v1", "NetworkPolicy"), ("policy/v1", "PodDisruptionBudget")):
            children += len(await self.api.list(kind, labels=MANAGED))
        missing = max(0, round(CHILDREN_EACH * objects) - children)
        pods = [
            pod(
                number,
                f"team-{number % NAMESPACES}",
                {
                    "app.kubernetes.io/managed-by": "kubegym",
                    "app.kubernetes.io/component": "benchmark",
                    "kubegym.dev/rolloutjob-name": f"job-{number % (objects // 2)}",
                },
            )
            for number in range(missing)
        ]
        await each(lambda obj=obj: self.api.create(obj) for obj in pods)  # type: ignore[misc]
        say(f"{children} children and {missing} fake pods")
        return children + missing

    async def steady(self) -> float:
        """Writes per second while nothing changes, a resync included."""
        before = await self.writes()
        await asyncio.sleep(STEADY_SECONDS)
        return (await self.writes() - before) / STEADY_SECONDS

    async def restart(self, operator: OperatorProcess, objects: int) -> tuple[float, float]:
        """Let another life follow: seconds, and seconds of CPU, from its start until every object was looked at.

        The keys of all objects are due when the cluster has been read, so that all were looked at when none is due.
        """
        await asyncio.to_thread(self.operator.terminate)  # which lets the lease go
        began = time.monotonic()
        self.operator = operator
        await asyncio.to_thread(operator.start)
        while True:
            await asyncio.sleep(0.25)
            if await self.idle() and await self.metric("kubegym_reconcile_total", result="ok") >= objects:
                return time.monotonic() - began, cpu_of(operator.pid)

    async def latencies(self, kubeconfig: Path, rate: float, objects: int) -> Latencies:
        """From changes of specs, of environments and jobs in turns, to their statuses, at so many a second."""
        half = objects // 2

        def make(number: int) -> Change:
            index = number // 2
            where = f"team-{index % half % NAMESPACES}"
            if number % 2:
                spec = {"parallelism": 2 + index // half}
                return Change(ROLLOUT_JOB, where, f"job-{index % half}", {"spec": spec})
            spec = {"idlePolicy": {"scaleToZeroAfterSeconds": 1000 + index}}  # type: ignore[dict-item]
            return Change(GYM_ENVIRONMENT, where, f"env-{index % half}", {"spec": spec})  # concerns no child

        return await change(self.api, kubeconfig, PLURALS, rate, round(rate * CHANGING_SECONDS), make)

    async def foreign(self, count: int) -> Foreign:
        """Foreign pods, and changes of them at a pace."""
        await self.rest()
        memory, handled = rss(self.operator.pid), await self.metric("kubegym_watch_events_total", kind="Pod")
        pods = [pod(number, f"foreign-{number % NAMESPACES}", {"app": "theirs"}) for number in range(count)]
        spaces = [f"foreign-{number}" for number in range(NAMESPACES)]
        made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces]
        await each(lambda obj=obj: self.api.create(obj) for obj in made)  # type: ignore[misc]
        await each(lambda obj=obj: self.api.create(obj) for obj in pods)  # type: ignore[misc]
        say(f"created {count} foreign pods")

        async def touch(number: int) -> None:
            index = number % count
            patch = {"metadata": {"annotations": {"at": str(number)}}}
            await self.api.patch(POD, f"foreign-{index % NAMESPACES}", f"pod-{index}", patch)

        rate = await paced(FOREIGN_EVENTS_PER_SECOND, round(FOREIGN_EVENTS_PER_SECOND * FOREIGN_SECONDS), touch)
        after = await self.metric("kubegym_watch_events_total", kind="Pod")
        return Foreign(after - handled, rss(self.operator.pid) - memory, rate)


class Foreign(NamedTuple):
    """What foreign pods cost: events that the operator handled, growth of its memory in MB; and their pace."""

    handled: float
    growth: float
    rate: float


async def measure(plane: ControlPlane, objects: int, foreign: int, rate: float) -> None:
    """Report all figures, one group after the other."""
    folder = scratch()
    lease = {"lease_duration_seconds": 300, "lease_renew_seconds": 240}  # a loaded machine is no loss of it
    first = OperatorProcess(plane.kubeconfig, folder, resync_seconds=40, **lease)
    second = OperatorProcess(plane.kubeconfig, folder, **lease)
    async with KubeClient(await load(plane.kubeconfig), manager="benchmark", agent="benchmark") as api:
        bench = Bench(api, first)
        with ExitStack() as stack:
            stack.callback(first.kill)
            stack.callback(second.kill)
            await asyncio.to_thread(first.start)
            await asyncio.to_thread(first.await_leading)
            report(await populated(bench, objects))
            children = await bench.fill(objects)
            size = f"{objects:,} objects, {children:,} children"
            report(await steady(bench, size))
            report(await restarted(bench, second, objects, size))
            report(await changed(bench, plane.kubeconfig, rate, objects))
            found = await bench.foreign(foreign)
    say("done")
    what = f"{foreign:,} foreign pods"
    report(
        [
            Figure(f"{what}, {found.rate:.0f} events/s: events handled", found.handled, "events", 0.0),
            Figure(f"{what}: RSS growth", found.growth / MEBI, "MiB", 1.0),
        ]
    )


async def populated(bench: Bench, objects: int) -> list[Figure]:
    """Until everything is there and suspended."""
    began, before, used = time.monotonic(), await bench.writes(), cpu_of(bench.operator.pid)
    await bench.populate(objects)
    wrote, took = await bench.writes() - before, time.monotonic() - began
    used = cpu_of(bench.operator.pid) - used
    return [
        Figure(f"writes per object until suspended ({wrote:,.0f} in {took:.0f} s)", wrote / objects, "writes"),
        Figure("the operator's CPU for each of them", 1000 * used / wrote, "ms"),
    ]


async def steady(bench: Bench, size: str) -> list[Figure]:
    """While nothing changes."""
    await bench.quiet()
    say("a steady state")
    grown, used = rss(bench.operator.pid), cpu_of(bench.operator.pid)
    writes = await bench.steady()
    used = cpu_of(bench.operator.pid) - used
    return [
        Figure(f"steady state, {size}: API writes", writes, "writes/s", 0.0),
        Figure("steady state with a resync every 40 s: CPU", 100 * used / STEADY_SECONDS, "% of a core"),
        Figure(f"RSS in its first life, {size}", grown / MEBI, "MiB", 400.0),
    ]


async def restarted(bench: Bench, second: OperatorProcess, objects: int, size: str) -> list[Figure]:
    """In another life."""
    took, used = await bench.restart(second, objects)
    say("started again")
    before = await bench.writes()
    await bench.rest()
    rested = cpu_of(second.pid)
    return [
        Figure(f"restart until all are consistent, {size}", took, "s", 30.0),
        Figure("restart until all are consistent: the operator's CPU", used, "s"),
        Figure("restart until its watches have listed everything: the operator's CPU", rested, "s"),
        Figure("restart: API writes", before, "writes", 0.0),
        Figure(f"RSS after a restart, {size}", rss(second.pid) / MEBI, "MiB", 400.0),
    ]


async def changed(bench: Bench, kubeconfig: Path, rate: float, objects: int) -> list[Figure]:
    """While users change things."""
    used = cpu_of(bench.operator.pid)
    before = await bench.writes()
    found = await bench.latencies(kubeconfig, rate, objects)
    say("changed")
    count = len(found.seconds)
    what = f"{found.rate:.3g} changes/s"
    return [
        Figure(f"{what}: event to status, p50", found.percentile(0.5), "s"),
        Figure(f"{what}: event to status, p99", found.percentile(0.99), "s", 2.0),
        Figure(f"{what}: event to status, longest", found.seconds[-1], "s"),
        Figure(f"{what}: refused by the API server", found.refused, "changes"),
        Figure(f"{what}: API writes for each", (await bench.writes() - before) / count, "writes"),
        Figure(f"{what}: the operator's CPU for each", 1000 * (cpu_of(bench.operator.pid) - used) / count, "ms"),
        Figure(f"{what}: RSS after them", rss(bench.operator.pid) / MEBI, "MiB", 400.0),
    ]


def main() -> None:
    """Start a control plane, measure, report."""
    objects, foreign, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with control_plane(environment=ROOMY) as plane:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            plane.api.create(yaml.safe_load(path.read_text()))
        asyncio.run(measure(plane, objects, foreign, rate))


if __name__ == "__main__":
    main()
