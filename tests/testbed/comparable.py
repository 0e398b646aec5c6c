"""Rows of runs that may be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kubegym.local.localrun import LocalRun
from kubegym.local.results import read_results, read_samples
from kubegym.local.runspec import RunSpec


async def rows_of(spec: RunSpec, output: Path, **options: Any) -> list[Any]:
    """Run it: what of rows and token data does not depend on when and where. ``options`` as of ``LocalRun``."""
    result = await LocalRun(replace(spec, output=str(output)), **options).run()
    assert result.manifest.complete
    kept = []
    samples: dict[str, list[Any]] = {}
    for sample in (await read_samples(output)).to_pylist():
        told = [sample[name] for name in ("sample", "token_ids", "loss_mask", "log_probs")]
        samples.setdefault(sample["rollout_id"], []).append(told)
    for row in (await read_results(output)).rows:
        ours = row["kubegym"]
        conversation = [
            (item["type"], item.get("name"), item.get("arguments"), item.get("output"), str(item.get("content")))
            for item in row["response"]["output"]
        ]
        fields = {name: row[name] for name in ("kind", "answer", "guesses") if name in row}
        names = ("task_id", "outcome", "stop_reason", "failure", "environment", "verifier")
        stated = {name: ours[name] for name in names}
        tokens = samples.get(ours["rollout_id"], [])
        kept.append((row["reward"], row["agent_ref"], conversation, fields, stated, tokens))
    return kept
