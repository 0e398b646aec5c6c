"""Where the calls of many rollouts go: 16 model servers before simulated engines, 8 clients that share nothing.

First 400 conversations of 6 turns, randomly interleaved, 64 calls in flight. Then two of the engines stop to answer,
although they say that they are healthy.

usage: python -m benchmarks.routing [SILENCE_SECONDS]
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from benchmarks.figures import Figure, report
from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.protocols import CallContext
from kubegym.model.server import ModelServer
from kubegym.model.simulated import Distribution, Faults, SimulatedConfig, serve_simulated
from testbed.served import serving

REPLICAS, CLIENTS, CONVERSATIONS, TURNS, IN_FLIGHT = 16, 8, 400, 6, 64


async def replicas(stack: AsyncExitStack, hanging: int, silence: float) -> list[str]:
    """Model servers, each before an engine of its own, some of which hang."""
    urls = []
    for number in range(REPLICAS):
        faults = Faults(hang=1.0) if number < hanging else Faults()
        latency = Distribution.constant(0.03)
        config = SimulatedConfig(model="m", latency=latency, faults=faults, policy_version=number)
        engine = await serve_simulated(config)
        stack.push_async_callback(engine.close)
        server = ModelServer([engine.url], model="m", silence_seconds=silence)
        urls.append(await stack.enter_async_context(serving(server)))
    return urls


async def affinity() -> list[Figure]:
    """How many turns went where the turn before was, and how even the load is. A version tells the replica."""
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        urls = await replicas(stack, 0, 30.0)
        clients = [ModelServerClient(urls) for _ in range(CLIENTS)]
        turns = [number for number in range(CONVERSATIONS) for _ in range(TURNS)]
        rng.shuffle(turns)
        where: dict[int, Any] = {}
        load: Counter[Any] = Counter()
        locks = [asyncio.Lock() for _ in range(CONVERSATIONS)]
        same = again = 0

        async def work() -> None:
            nonlocal same, again
            while turns:
                number = turns.pop()
                async with locks[number]:
                    context = CallContext(f"0123abcd-{number}-0", Deadline(60.0))
                    reply = await clients[number % CLIENTS].respond({"input": f"question {number}"}, context)
                load[reply.policy_version] += 1
                if number in where:
                    again += 1
                    same += where[number] == reply.policy_version
                where[number] = reply.policy_version

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        for client in clients:
            await client.close()
    mean = CONVERSATIONS * TURNS / REPLICAS
    name = f"{REPLICAS} replicas, {CONVERSATIONS} conversations of {TURNS} turns, {CLIENTS} clients"
    return [
        Figure(f"{name}: same replica as the turn before", 100 * same / again, "%", 100.0, "more"),
        Figure(f"{name}: load max/mean", max(load.values()) / mean, "x", 1.10),
    ]


async def silence(limit: float) -> list[Figure]:
    """Calls that wait longer than the limit, of those begun after twice the limit: by then everybody should know."""
    waits: list[tuple[float, float]] = []  # began, took
    lost = 0
    async with AsyncExitStack() as stack:
        urls = await replicas(stack, 2, limit)
        clients = [ModelServerClient(urls) for _ in range(CLIENTS)]
        began = time.monotonic()
        end = began + 3 * limit + 10

        async def work(number: int) -> None:
            nonlocal lost
            turn = 0
            while time.monotonic() < end:
                context = CallContext(f"0123abcd-{number}-{turn // TURNS}", Deadline(600.0))
                started = time.monotonic()
                try:
                    await clients[number % CLIENTS].respond({"input": "question"}, context)
                except Exception:
                    lost += 1
                waits.append((started - began, time.monotonic() - started))
                turn += 1
                if turn % TURNS == 0:
                    clients[number % CLIENTS].leave(context.rollout_id)
                await asyncio.sleep(0.5)

        await asyncio.gather(*(work(number) for number in range(IN_FLIGHT)))
        for client in clients:
            await client.close()
    late = [took for at, took in waits if at >= 2 * limit]
    name = f"2 of {REPLICAS} replicas hang, looked at after {limit:g} s"
    return [
        Figure(f"{name}: calls begun after {2 * limit:g} s that waited longer", sum(t > limit for t in late), "", 0.0),
        Figure(f"{name}: calls lost", lost, "", 0.0),
        Figure("  (longest wait of any call)", max(took for _, took in waits), "s"),
        Figure("  (longest wait of those)", max(late), "s"),
        Figure("  (calls)", len(waits), ""),
    ]


async def main() -> None:
    """Both."""
    report(await affinity() + await silence(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))


if __name__ == "__main__":
    uvloop.run(main())
