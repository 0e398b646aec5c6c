"""Figures, how they are measured apart from each other, and the table of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """One measured value and what it is held against.

    ``best`` says whether less or more is better; ``target`` None is a figure for information.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    best: str = "less"

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.best == "less" else self.value >= self.target


def in_child(module: str, *arguments: str) -> list[Figure]:
    """Run a benchmark in an interpreter of its own, so that memory and CPU time are its alone."""
    with tempfile.TemporaryDirectory(prefix="kubegym-bench-") as scratch:
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        tests = str(ROOT / "tests")  # scripted episodes and rows are shared with the tests
        environment = {**os.environ, "KUBEGYM_BENCH_SCRATCH": scratch, "PYTHONPATH": tests}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Figure(**json.loads(line)) for line in done.stdout.splitlines()]


def report(figures: Sequence[Figure]) -> None:
    """What a child prints for its parent."""
    for figure in figures:
        print(json.dumps(asdict(figure)), flush=True)


def scratch() -> Path:
    """A folder that goes when the benchmark ends."""
    return Path(os.environ.get("KUBEGYM_BENCH_SCRATCH") or tempfile.mkdtemp(prefix="kubegym-bench-"))


@contextmanager
def stub(latency: float = 0.0, *, tools: bool = False) -> Iterator[tuple[str, int]]:
    """The simulated engine as a near-free model server in a process of its own: its URL and process id."""
    script = (
        "import sys; from kubegym.model.simulated import *;"
        f"run_server(SimulatedConfig(model='stub', latency=Distribution.constant({latency!r}),"
        " answers=Answers(mode='mcq')), '127.0.0.1', 0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                yield f"http://127.0.0.1:{found[1]}/v1", process.pid
                return
        raise RuntimeError("the simulated engine did not say where it listens")
    finally:
        process.terminate()
        process.wait()


def cpu_of(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid: int | str = "self") -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| measure | measured | target | |", "|---|---|---|---|"]
    for figure in figures:
        sign = "≤" if figure.best == "less" else "≥"
        target = "" if figure.target is None else f"{sign} {figure.target:g} {figure.unit}"
        verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
        value = f"{figure.value:,.0f}" if abs(figure.value) >= 1000 else f"{figure.value:.3g}"
        lines.append(f"| {figure.name} | {value} {figure.unit} | {target} | {verdict} |")
    return "\n".join(lines)
