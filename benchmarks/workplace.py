"""CPU seconds per 1,000 rollouts of workplace_assistant in process: agent loop, six tool calls, verification.

The policy is scripted: it searches, looks, and changes, as its ground truth does.

usage: python -m benchmarks.workplace ROLLOUTS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from benchmarks.figures import ROOT, Figure, report
from kubegym.agent import AgentSettings, run_attempt
from kubegym.core.ids import rollout_id, task_id
from kubegym.core.protocols import Assignment
from kubegym.resources import EnvironmentRuntime, load_environment
from kubegym.testing import ScriptedModel

TARGET = 2.5
READS = (
    ("email_search_emails", {"query": "budget"}),
    ("calendar_search_events", {"query": "review"}),
    ("customer_relationship_manager_search_customers", {"status": "Lead"}),
    ("project_management_search_tasks", {"board": "Design", "list_name": "Backlog"}),
    ("company_directory_find_email_address", {"name": "amara"}),
)
CALLS = 6


async def measure(rollouts: int) -> float:
    """CPU seconds per 1,000 rollouts."""
    folder = ROOT / "environments/workplace_assistant"
    rows = [json.loads(line) for line in (folder / "data/example.jsonl").read_text().splitlines()]
    runtime = EnvironmentRuntime(load_environment(folder).cls)
    await runtime.start()
    scripts = [_script(row) for row in rows]
    before = time.process_time()
    for number in range(rollouts):
        row = rows[number % len(rows)]
        identity = rollout_id("0" * 32, number, 0)
        assignment = Assignment(runtime.name, row, task_id(runtime.name, row), number, 0, identity)
        model = ScriptedModel(scripts[number % len(rows)])
        attempt = await run_attempt(assignment, runtime.session(assignment), model, AgentSettings())
        assert attempt.reward == 1.0, attempt
    spent = time.process_time() - before
    await runtime.close()
    return spent / rollouts * 1000


def _script(row: dict[str, Any]) -> list[Any]:
    """Six calls, of which the last are the ground truth's, then a word."""
    truth = [{"name": one["name"], "arguments": json.loads(one["arguments"])} for one in row["ground_truth"]][:CALLS]
    reads = [{"name": name, "arguments": arguments} for name, arguments in READS][: CALLS - len(truth)]
    return [*reads, *truth, "Done."]


def main() -> None:
    """The median of three, after a warm-up."""
    rollouts = int(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(rollouts // 10))
        values = sorted(runner.run(measure(rollouts)) for _ in range(3))
    report([Figure("workplace_assistant, 6 tool calls: CPU per 1,000 rollouts", values[1], "s", TARGET)])


if __name__ == "__main__":
    main()
