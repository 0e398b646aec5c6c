"""Resident memory of the worker: with many rollouts in flight, and over very many rollouts.

usage: python -m benchmarks.memory in-flight N
       python -m benchmarks.memory flat ROLLOUTS
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import uvloop

from benchmarks.figures import ROOT, Figure, report, rss, scratch, stub
from benchmarks.rollouts import mcqa_rows
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve

LIMITS = {1024: 150.0, 10_000: 700.0}


class Sampler:
    """Samples this process's resident memory until stopped."""

    def __init__(self, seconds: float) -> None:
        self.samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(seconds,), daemon=True)
        self._thread.start()

    def _run(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            self.samples.append(rss())

    def stop(self) -> list[float]:
        self._stop.set()
        self._thread.join()
        return self.samples


def collect(rows: Path, rollouts_per_task: int, in_flight: int, latency: float) -> list[float]:
    with stub(latency) as (url, _):
        flags = RunFlags(
            dataset=str(rows),
            rollouts_per_task=rollouts_per_task,
            base_url=url,
            model="stub",
            concurrency=in_flight,
            output=str(scratch() / "out"),
        )
        spec = resolve([str(ROOT / "environments/mcqa")], flags)
        sampler = Sampler(0.25)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(LocalRun(spec).run())
        return sampler.stop()


def main() -> None:
    """Print the figures of one of the two."""
    kind, number = sys.argv[1], int(sys.argv[2])
    if kind == "in-flight":
        samples = collect(mcqa_rows(scratch() / "rows.jsonl", 3 * number), 1, number, 2.0)
        report([Figure(f"worker RSS, {number:,} in flight", max(samples), "MB", LIMITS.get(number))])
        return
    samples = collect(mcqa_rows(scratch() / "rows.jsonl", number // 4), 4, 256, 0.0)
    quarter = len(samples) // 4
    second = sum(samples[quarter : 2 * quarter]) / quarter
    last = sum(samples[-quarter:]) / quarter
    report(
        [
            Figure(f"worker RSS over {number:,} rollouts, last quarter ÷ second quarter", last / second, "x", 1.05),
            Figure("  (second quarter's mean)", second, "MB"),
            Figure("  (last quarter's mean)", last, "MB"),
        ]
    )


if __name__ == "__main__":
    main()
