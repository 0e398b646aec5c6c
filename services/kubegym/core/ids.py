"""Identity of tasks, rollouts and runs, and the seeds that follow from it (DESIGN section 6)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

_POSITION_FIELDS = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "_ng_rollout_id")
_ROLLOUT_ID = re.compile(r"^([A-Za-z0-9]+)-(\d+)-(\d+)(?:-a(\d+))?$")


def canonical_json(value: Any) -> bytes:
    """One byte string for equal JSON values: sorted keys, no white space, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(data: bytes) -> str:
    """Short content address (128 bits, hex) of bytes. For identity, not against forgery."""
    return blake2b(data, digest_size=16).hexdigest()


def task_id(environment: str, row: Mapping[str, Any]) -> str:
    """Identity of a task: the same row of the same environment has it in every run.

    The row's position in some run (``_ng_*`` indices) does not enter.
    """
    if any(name in row for name in _POSITION_FIELDS):
        row = {name: value for name, value in row.items() if name not in _POSITION_FIELDS}
    hasher = blake2b(environment.encode(), digest_size=16)
    hasher.update(b"\0")
    hasher.update(canonical_json(row))
    return hasher.hexdigest()


def new_run_id() -> str:
    """A fresh run id: 32 hex digits, of which the first 8 stand in every rollout id."""
    return uuid.uuid4().hex


def rollout_id(run_id: str, task_index: int, rollout_index: int, attempt: int = 0) -> str:
    """``<run8>-<task index>-<rollout index>``, ``-a<n>`` for the n-th further attempt."""
    base = f"{run_id[:8]}-{task_index}-{rollout_index}"
    return f"{base}-a{attempt}" if attempt else base


def parse_rollout_id(text: str) -> tuple[str, int, int, int]:
    """``(run8, task index, rollout index, attempt)`` of a rollout id. Raises ValueError."""
    match = _ROLLOUT_ID.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a rollout id like 1a2b3c4d-17-0")
    run, task, rollout, attempt = match.groups()
    return run, int(task), int(rollout), int(attempt or 0)


def run_of_rollout(identity: str) -> str:
    """The run8 of a rollout id; empty for the ids of others, whose first part is a task's."""
    run, _, rest = identity.partition("-")
    return run if len(run) == 8 and "-" in rest else ""


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) from any identity, equal in every process.

    31 bits because llama.cpp and several endpoints take no more.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) & 0x7FFFFFFF
