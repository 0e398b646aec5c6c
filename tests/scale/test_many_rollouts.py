"""Many rollouts through the whole local path: exactly once, and in memory that does not grow with their number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import kubegym
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve

ENVIRONMENT = Path(__file__).resolve().parents[2] / "environments" / "mcqa"


def write_rows(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(count):
            row = {
                "responses_create_params": {"input": f"Question {number}: A or B?"},
                "options": [{"A": "yes"}, {"B": "no"}],
                "expected_answer": "AB"[number % 2],
            }
            file.write(json.dumps(row) + "\n")
    return path


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Watching:
    """Notes the memory in use when the rollouts are done."""

    def __init__(self) -> None:
        self.resident = 0.0

    def validating(self, rows: int) -> None: ...

    def began(self, output: str, progress: Any) -> None: ...

    def merging(self) -> None:
        self.resident = resident_megabytes()


async def test_twenty_thousand_rollouts(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5000)
    output = tmp_path / "out"
    flags = RunFlags(dataset=str(rows), rollouts_per_task=4, engine="simulated", concurrency=256, output=str(output))
    watching = Watching()
    before = resident_megabytes()
    result = await LocalRun(resolve([str(ENVIRONMENT)], flags), display=watching).run()
    after = resident_megabytes()
    assert result.manifest.complete
    assert result.summary is not None
    summary = result.summary.environments[0]
    assert (summary.tasks, summary.rollouts, summary.scored) == (5000, 20_000, 20_000)
    written = [
        json.loads(line)["kubegym"]["rollout_id"] for line in (output / "rollouts.jsonl").read_bytes().splitlines()
    ]
    assert len(written) == len(set(written)) == 20_000
    # 20,000 rows of 2.5 KB are 50 MB: if they, or their tasks and slots, were kept, it would show.
    assert max(watching.resident, after) - before < 40
    assert Counter(len(group.rollouts) for group in kubegym.load(output).groups) == {4: 5000}
