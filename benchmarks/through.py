"""Output tokens per second of a real engine through the model server, against the engine asked directly.

In alternating windows of one run, so that what the machine does beside it hits both.

usage: python -m benchmarks.through URL MODEL [IN_FLIGHT] [REQUESTS]      (an OpenAI-compatible server, such as vLLM)
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson
import uvloop

from benchmarks.figures import Figure, report, table
from benchmarks.hop import HEADERS, cpu, ours, program
from kubegym.http import HttpClient, Url

ROUNDS = 6


async def window(client: HttpClient, url: Url, model: str, in_flight: int, count: int) -> float:
    """Output tokens per second of so many requests of 16 to 112 tokens, so many at a time.

    Of different lengths, as rollouts are: equal ones would end in the same step, and an engine that waits for all of
    its next requests shows how fast it is told, not how fast it is.
    """
    left, tokens = count, 0

    async def work() -> None:
        nonlocal left, tokens
        while left > 0:
            left -= 1
            question = f"What is {left % 17} + {left % 13}? Answer with a number."
            body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 1.0}
            body |= {"max_tokens": 16 + left * 37 % 97, "ignore_eos": True, "logprobs": True, "return_token_ids": True}
            reply = await client.request(b"POST", url, HEADERS, orjson.dumps(body), 600.0)
            assert reply.status == 200, reply.body[:300]
            tokens += orjson.loads(reply.body)["usage"]["completion_tokens"]

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return tokens / (time.perf_counter() - began)


async def measure(direct: str, model: str, in_flight: int, count: int) -> list[Figure]:
    """The ratio, and both sides of it."""
    command = [word if word != "stub" else model for word in ours(direct)]
    with program(*command) as (through, pid):
        client = HttpClient()
        rates: dict[str, list[float]] = {direct: [], through: []}
        for number in range(ROUNDS + 1):
            for base in (direct, through) if number % 2 else (through, direct):
                rate = await window(client, Url(f"{base}/v1/chat/completions"), model, in_flight, count)
                if number:  # the first warms up
                    rates[base].append(rate)
        await client.close()
        used = cpu(pid) / ((ROUNDS + 1) * count)
    means = {base: len(seen) / sum(1 / rate for rate in seen) for base, seen in rates.items()}
    name = f"{model}, {in_flight} in flight"
    ratio = means[through] / means[direct]
    return [
        Figure(f"{name}: output tokens/s through the model server ÷ directly", ratio, "", 0.97, "more"),
        Figure("  (directly)", means[direct], "tokens/s"),
        Figure("  (through)", means[through], "tokens/s"),
        Figure("  (the model server's CPU per request, its start included)", 1e6 * used, "us"),
    ]


if __name__ == "__main__":
    url, name, *numbers = sys.argv[1:]
    in_flight, count = (*map(int, numbers), *(64, 400)[len(numbers) :])
    figures = uvloop.run(measure(url.rstrip("/").removesuffix("/v1"), name, in_flight, count))
    report(figures)
    print(table(figures), file=sys.stderr)
