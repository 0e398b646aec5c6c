"""``kubegym canary``: what weights answer, told once by an engine that was just started with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubegym.cli.errors import guarded, print_json

TEXTS = (
    "The quick brown fox jumps over the lazy dog. 0123456789",
    'def add(a, b):\n    """Return the sum."""\n    return a + b\n',
    "What is 7+18? Answer with a number.",
    '{"name": "search", "arguments": {"query": "capital of France"}}',
)
"""Asked where nothing else is given."""


def canary(
    upstream: Annotated[str, typer.Argument(metavar="URL", help="An engine that was just started: its root, or /v1.")],
    into: Annotated[str, typer.Option(metavar="DIR", help="The checkpoint's folder.")],
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Asked in place of the usual ones.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="NATS", help="Mean difference that is allowed. Default: 0.05.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the canary of a checkpoint, kubegym-canary.json, as a freshly started engine answers."""

    def work() -> int:
        import asyncio

        import orjson

        from kubegym.model.weights import CANARY_FILE
        from kubegym.model.weights.canary import TOLERANCE
        from kubegym.model.weights.making import make_canary

        made = asyncio.run(make_canary(upstream, prompt or TEXTS, TOLERANCE if tolerance is None else tolerance))
        path = Path(into) / CANARY_FILE
        path.write_bytes(orjson.dumps(made.to_json()) + b"\n")
        tokens = sum(len(probe.log_probs) for probe in made.probes)
        if as_json:
            print_json({"path": str(path), "probes": len(made.probes), "tokens": tokens})
        else:
            print(f"{path}: {len(made.probes)} sequences, {tokens} log-probs")
        return 0

    raise typer.Exit(guarded(work, as_json=as_json))
