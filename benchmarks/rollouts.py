"""CPU seconds per 1,000 rollouts of an environment in process: planning, journal, manifest and all files included.

The model is the simulated engine behind HTTP in a process of its own, which is measured apart.

usage: python -m benchmarks.rollouts ENVIRONMENT ROLLOUTS IN_FLIGHT...
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.figures import ROOT, Figure, cpu_of, report, scratch, stub
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve

TARGETS = {"mcqa": 0.25, "example_session_state": 0.5}


def mcqa_rows(path: Path, count: int) -> Path:
    """Questions of some 400 characters."""
    padding = "Read the four statements with care and choose the one that is true. " * 5
    with path.open("w") as file:
        for number in range(count):
            text = f"Question {number}. {padding}\nA: one\nB: two\nC: three\nD: four\nAnswer in \\boxed{{}}."
            row = {
                "responses_create_params": {"input": [{"role": "user", "content": text}]},
                "options": [{"A": "one"}, {"B": "two"}, {"C": "three"}, {"D": "four"}],
                "expected_answer": "AB"[number % 2],
                "uuid": f"row-{number}",
            }
            file.write(json.dumps(row) + "\n")
    return path


def counter_rows(path: Path, count: int) -> Path:
    """Tasks whose first tool the simulated engine calls once before it answers."""
    example = (ROOT / "environments/example_session_state/data/example.jsonl").read_text().splitlines()[0]
    row = json.loads(example)
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({**row, "id": number}) + "\n")
    return path


ROWS = {"mcqa": mcqa_rows, "example_session_state": counter_rows}


def measure(environment: str, rollouts: int, in_flight: int, url: str, rows: Path) -> float:
    """CPU seconds of this process per 1,000 rollouts."""
    output = scratch() / f"out-{in_flight}"
    flags = RunFlags(
        dataset=str(rows), limit=rollouts, base_url=url, model="stub", concurrency=in_flight, output=str(output)
    )
    spec = resolve([str(ROOT / "environments" / environment)], flags)
    before = time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(LocalRun(spec).run())
    spent = time.process_time() - before
    assert result.manifest.totals.scored == rollouts, result.manifest.totals
    shutil.rmtree(output)
    return spent / rollouts * 1000


def main() -> None:
    """Warm up once, then measure each number in flight three times and keep the median."""
    environment, rollouts = sys.argv[1], int(sys.argv[2])
    rows = ROWS[environment](scratch() / "rows.jsonl", rollouts)
    figures = []
    with stub() as (url, pid):
        measure(environment, rollouts // 10, 16, url, rows)
        medians = []
        for in_flight in map(int, sys.argv[3:]):
            server = cpu_of(pid)
            values = sorted(measure(environment, rollouts, in_flight, url, rows) for _ in range(3))
            medians.append(values[1])
            name = f"{environment}, {in_flight:,} in flight: CPU per 1,000 rollouts"
            figures.append(Figure(name, values[1], "s", TARGETS[environment]))
            stub_cost = (cpu_of(pid) - server) / (3 * rollouts) * 1000
            figures.append(Figure(f"  (the stub, measured apart, at {in_flight:,})", stub_cost, "s"))
        growth = max(medians) / min(medians)
        figures.append(Figure(f"{environment}: growth over numbers in flight", growth, "x", 1.5))
    report(figures)


if __name__ == "__main__":
    main()
