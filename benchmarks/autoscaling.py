"""Replicas that follow the jobs, beside a HorizontalPodAutoscaler's formula: a simulation with fixed seeds.

A job wants the server when it is created; its workers run a while after the first replica answers, and have at most
their slots in flight. A replica takes a number of rollouts at a time and needs minutes to start; what finds no room
waits. ``Demand`` runs the operator's own code (``plan.replicas``), the other the formula of Kubernetes
over running and waiting rollouts a replica, with its defaults: a look every 15 s, a tolerance of a tenth, at most
twice as many or four more at a time, fewer after five minutes.

usage: python -m benchmarks.autoscaling
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Figure, report
from kubegym.core.spec.model import Autoscaling
from kubegym_operator.plan.replicas import Held, follow, needed
from kubegym_operator.plan.snapshot import Load

ROOM = 64
MOST = 16
REPLICA_STARTS = 120
WORKERS_START = 25
HORIZON = 6 * 3600
BOUNDS = Autoscaling(mode="Demand", min_replicas=1, max_replicas=MOST, rollouts_per_replica=ROOM)


@dataclass
class Job:
    """A run: ``rollouts`` of about ``seconds`` each, log-normal, ``slots`` at a time."""

    arrives: int
    rollouts: int
    slots: int
    seconds: float
    sigma: float
    admitted: int = 0
    done: int = 0
    works_from: int | None = None

    @property
    def load(self) -> Load:
        return Load("job", self.slots, self.rollouts - self.done)


@dataclass
class World:
    """The cluster at one second."""

    jobs: Sequence[Job]
    rng: random.Random
    now: int = 0
    replicas: int = 1
    starting: list[int] = field(default_factory=list)
    running: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    replica_seconds: int = 0
    changes: int = 0
    turns: int = 0
    _last: int = 0

    def active(self) -> list[Job]:
        """Jobs that want the server."""
        return [job for job in self.jobs if job.arrives <= self.now and job.done < job.rollouts]

    def scale(self, wanted: int) -> None:
        """Start replicas, or end some: those that start first; what runs is moved, and counts until it ends."""
        have = self.replicas + len(self.starting)
        if wanted == have:
            return
        direction = 1 if wanted > have else -1
        self.changes += 1
        self.turns += direction == -self._last
        self._last = direction
        for _ in range(have, wanted):
            self.starting.append(self.now + REPLICA_STARTS)
        for _ in range(wanted, have):
            if self.starting:
                self.starting.pop()
            else:
                self.replicas -= 1

    def step(self) -> None:
        """One second."""
        self.replicas += sum(at <= self.now for at in self.starting)
        self.starting = [at for at in self.starting if at > self.now]
        while self.running and self.running[0][0] <= self.now:
            self.jobs[heapq.heappop(self.running)[1]].done += 1
        for number, job in enumerate(self.jobs):
            if job.arrives > self.now or job.done >= job.rollouts:
                continue
            if job.works_from is None and self.replicas:
                job.works_from = self.now + WORKERS_START
            if job.works_from is not None and job.works_from <= self.now:
                fresh = min(job.rollouts, job.done + job.slots) - job.admitted
                job.admitted += max(0, fresh)
                self.waiting.extend((self.now, number) for _ in range(fresh))
        while self.waiting and len(self.running) < self.replicas * ROOM:
            since, number = self.waiting.popleft()
            self.waits.append(self.now - since)
            job = self.jobs[number]
            drawn = self.rng.lognormvariate(math.log(job.seconds) - job.sigma**2 / 2, job.sigma)
            heapq.heappush(self.running, (self.now + drawn, number))
        draining = -(-max(0, len(self.running) - self.replicas * ROOM) // ROOM)
        self.replica_seconds += self.replicas + len(self.starting) + draining
        self.now += 1


class Demand:
    """The operator's."""

    def __init__(self) -> None:
        self.held: Held | None = None

    def wanted(self, world: World) -> int:
        if world.now % 5 == 0:  # a job's figures are written every 30 s; its creation and end come at once
            loads = [job.load for job in world.active()]
            self.held = follow(self.held, needed(loads, ROOM, BOUNDS, self.held), world.now)
        assert self.held is not None
        return self.held.replicas


class Hpa:
    """``desired = ceil(current x average / target)``."""

    def __init__(self) -> None:
        self.told: deque[tuple[int, int]] = deque()

    def wanted(self, world: World) -> int:
        have = world.replicas + len(world.starting)
        if world.now % 15:
            return have
        ratio = (len(world.running) + len(world.waiting)) / (have * ROOM)
        desired = have if abs(ratio - 1) <= 0.1 else max(1, min(MOST, math.ceil(have * ratio)))
        self.told.append((world.now, desired))
        while self.told[0][0] < world.now - 300:
            self.told.popleft()
        if desired > have:
            return min(desired, max(2 * have, have + 4))
        return min(have, max(asked for _, asked in self.told))


def bursty(rng: random.Random) -> list[Job]:
    """Jobs of a training loop, one after the other with pauses, and strangers between them."""
    jobs, at = [], 60
    while at < HORIZON - 3600:
        jobs.append(Job(at, 2048, rng.choice([128, 256, 512]), 30.0, 0.8))
        at += rng.randint(200, 1200)
    return jobs


def ramp(rng: random.Random) -> list[Job]:
    """More and more users, then fewer."""
    return [
        Job(60 + 600 * step, 1500, 64, 40.0, 0.8)
        for step in range(24)
        for _ in range(min(step, 24 - step) // 3 + rng.randint(0, 1))
    ]


def long_tail(rng: random.Random) -> list[Job]:
    """Few large jobs whose last rollouts take very long."""
    return [Job(60 + 5400 * number, 4096, 768, 45.0, 1.5) for number in range(3)]


SHAPES: dict[str, Callable[[random.Random], list[Job]]] = {"bursty": bursty, "ramp": ramp, "long tail": long_tail}


def simulate(shape: str, policy: Demand | Hpa, seed: int) -> World:
    """Six hours under a policy."""
    world = World(SHAPES[shape](random.Random(seed)), random.Random(seed + 1))
    while world.now < HORIZON or world.active():
        world.scale(policy.wanted(world))
        world.step()
    return world


def main() -> None:
    """All shapes, three seeds, both policies."""
    figures = []
    for shape in SHAPES:
        for name, make in (("Demand", Demand), ("HPA's formula", Hpa)):
            worlds = [simulate(shape, make(), seed) for seed in range(3)]
            waits = sorted(wait for world in worlds for wait in world.waits)
            hours = sum(world.replica_seconds for world in worlds) / 3600
            ends = max(world.now for world in worlds)
            about = f"{shape}, {name}"
            figures += [
                Figure(
                    f"{about}: replica-hours ({len(waits):,} rollouts, ended after {ends / 3600:.1f} h)", hours, "h"
                ),
                Figure(f"{about}: wait for room, mean", sum(waits) / len(waits), "s"),
                Figure(f"{about}: wait for room, p99", waits[int(len(waits) * 0.99)], "s"),
                Figure(f"{about}: changes of direction", sum(world.turns for world in worlds), ""),
            ]
    report(figures)


if __name__ == "__main__":
    main()
