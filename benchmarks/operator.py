"""The operator on a real API server with thousands of objects: what it writes, how much it holds, how soon it knows.

Half of the objects are GymEnvironments that are suspended, so that they have all of their children and no pods; half
are RolloutJobs. Fake pods with an owner's labels fill up to twelve and a half children an object, and foreign pods
without our label stand for everybody else's.

Figures: writes in a steady state; from a restart until every object has been looked at; resident memory; from a change
of a spec to the status that has seen it, at a rate; what foreign pods cost.

usage: python -m benchmarks.operator OBJECTS FOREIGN CHANGES_PER_SECOND
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from typing import Any

import yaml

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
AT_ONCE = 32
POD = ("v1", "Pod")
WRITES = ("create", "apply", "apply_status", "patch", "scale", "delete")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


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

    async def quiet(self) -> None:
        """Wait until nothing is due and nothing has been written for a while."""
        while True:
            before = await self.writes()
            await asyncio.sleep(5)
            if await self.writes() == before and (await self.health())["queueDepth"] == 0:
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

    async def restart(self, objects: int) -> float:
        """Seconds from a start until every object of ours has been looked at once, and nothing is due."""
        await asyncio.to_thread(self.operator.terminate)  # which lets the lease go
        began = time.monotonic()
        await asyncio.to_thread(self.operator.start)
        while True:
            await asyncio.sleep(0.25)
            looked = await self.metric("kubegym_reconcile_total", result="ok")
            if looked >= objects and (await self.health())["queueDepth"] == 0:
                return time.monotonic() - began

    async def latencies(self, rate: float, objects: int) -> list[float]:
        """From a change of an environment's spec to ``observedGeneration``, at so many changes a second."""
        took: list[float] = []

        async def change(number: int) -> None:
            name, namespace = f"env-{number % (objects // 2)}", f"team-{number % (objects // 2) % NAMESPACES}"
            patch = {"spec": {"idlePolicy": {"scaleToZeroAfterSeconds": 1000 + number}}}  # concerns no child
            try:
                changed = await self.api.patch(GYM_ENVIRONMENT, namespace, name, patch)
            except KubeError as error:
                say(f"a change that the server did not take: {error}")
                return
            began, generation = time.monotonic(), changed["metadata"]["generation"]
            while True:
                found = await self.api.get(GYM_ENVIRONMENT, namespace, name)
                if found is not None and (found.get("status") or {}).get("observedGeneration", 0) >= generation:
                    took.append(time.monotonic() - began)
                    return
                await asyncio.sleep(0.1)

        tasks = []
        for number in range(round(rate * CHANGING_SECONDS)):
            tasks.append(asyncio.create_task(change(number)))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
        return sorted(took)

    async def foreign(self, count: int) -> tuple[float, float]:
        """Foreign pods, and changes of them: events that the operator handled, and growth of its memory in MB."""
        memory, handled = rss(self.operator.pid), await self.metric("kubegym_watch_events_total", kind="Pod")
        pods = [pod(number, f"foreign-{number % NAMESPACES}", {"app": "theirs"}) for number in range(count)]
        spaces = [f"foreign-{number}" for number in range(NAMESPACES)]
        made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces]
        await each(lambda obj=obj: self.api.create(obj) for obj in made)  # type: ignore[misc]
        await each(lambda obj=obj: self.api.create(obj) for obj in pods)  # type: ignore[misc]
        changes = [
            lambda number=number: self.api.patch(  # type: ignore[misc]
                POD,
                f"foreign-{number % count % NAMESPACES}",
                f"pod-{number % count}",
                {"metadata": {"annotations": {"at": str(number)}}},
            )
            for number in range(round(FOREIGN_EVENTS_PER_SECOND * FOREIGN_SECONDS))
        ]
        await each(changes)
        after = await self.metric("kubegym_watch_events_total", kind="Pod")
        return after - handled, rss(self.operator.pid) - memory


async def measure(plane: ControlPlane, objects: int, foreign: int, rate: float) -> list[Figure]:
    """All figures, one after the other."""
    folder = scratch()
    async with KubeClient(await load(plane.kubeconfig), manager="benchmark") as api:
        lease = {"lease_duration_seconds": 120, "lease_renew_seconds": 90}  # a loaded machine is no loss of it
        operator = OperatorProcess(plane.kubeconfig, folder, resync_seconds=40, **lease)
        bench = Bench(api, operator)
        with ExitStack() as stack:
            stack.callback(operator.kill)
            await asyncio.to_thread(operator.start)
            await asyncio.to_thread(operator.await_leading)
            began, before = time.monotonic(), await bench.writes()
            await bench.populate(objects)
            wrote, took = await bench.writes() - before, time.monotonic() - began
            children = await bench.fill(objects)
            await bench.quiet()
            grown = rss(operator.pid)
            idle = cpu_of(operator.pid)
            steady = await bench.steady()
            idle = cpu_of(operator.pid) - idle
            restart = await bench.restart(objects)
            await bench.quiet()
            fresh = rss(operator.pid)
            times = await bench.latencies(rate, objects)
            await bench.quiet()
            handled, growth = await bench.foreign(foreign)
    size = f"{objects:,} objects, {children:,} children"
    mebi = 1.048576
    return [
        Figure(f"writes per object until suspended ({wrote:,.0f} in {took:.0f} s)", wrote / objects, "writes"),
        Figure(f"steady state, {size}: API writes", steady, "writes/s", 0.0),
        Figure("steady state with one resync a minute: CPU", 100 * idle / STEADY_SECONDS, "% of a core"),
        Figure(f"restart until all are consistent, {size}", restart, "s", 30.0),
        Figure(f"RSS in its first life, {size}", grown / mebi, "MiB", 400.0),
        Figure(f"RSS after a restart, {size}", fresh / mebi, "MiB", 400.0),
        Figure(f"{rate:g} changes/s: event to status, p50", times[len(times) // 2], "s"),
        Figure(f"{rate:g} changes/s: event to status, p99", times[int(len(times) * 0.99)], "s", 2.0),
        Figure(f"{foreign:,} foreign pods: their events handled", handled, "events", 0.0),
        Figure(f"{foreign:,} foreign pods: RSS growth", growth / mebi, "MiB"),
    ]


def main() -> None:
    """Start a control plane, measure, report."""
    objects, foreign, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with control_plane() as plane:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            plane.api.create(yaml.safe_load(path.read_text()))
        figures = asyncio.run(measure(plane, objects, foreign, rate))
    report(figures)


if __name__ == "__main__":
    main()
