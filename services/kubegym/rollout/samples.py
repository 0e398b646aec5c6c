"""Token data of rollouts: an Arrow file beside each part, one record a sample (DESIGN section 6 "Files").

pyarrow is optional: ``pip install 'kubegym[tokens]'``.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.tokens import Sample, TokenRecord, taken

if TYPE_CHECKING:
    import pyarrow

_PLACEHOLDER = b'"samples_ref":null'


@dataclass(frozen=True, slots=True)
class Sampled:
    """The samples of one attempt, and what their records say of it."""

    assignment: Assignment
    attempt: Attempt
    agent: str
    samples: Sequence[Sample]

    @property
    def size(self) -> int:
        """About the bytes that they take, in memory as in the store."""
        return 8 * sum(len(sample.token_ids) for sample in self.samples)


def require_arrow() -> None:
    """Raise InvalidSpec ("MissingDependency") where token data cannot be written or read."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InvalidSpec(
            "token ids are kept in Arrow files, for which pyarrow is needed: pip install 'kubegym[tokens]'",
            reason="MissingDependency",
        ) from None


def record_of(attempt: Attempt) -> TokenRecord | None:
    """An attempt's tokens: as its model client told them, else taken out of the response's inline fields."""
    if attempt.tokens is None and attempt.response is not None:
        attempt.tokens = taken(attempt.response.get("output") or (), attempt.turns)
    return attempt.tokens


def samples_key(part: str) -> str:
    """``shards/<i>/<epoch>-<n>.samples.arrow``, of the part's key."""
    folder, _, name = part.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}.samples.arrow"


def refer(line: bytes, key: str, first: int, count: int) -> bytes:
    """A row's line with the place of its samples. The row was written without: its part had no name yet."""
    start = line.rindex(_PLACEHOLDER)
    place = b'"samples_ref":{"part":"%b","rows":[%d,%d]}' % (key.encode(), first, count)
    return line[:start] + place + line[start + len(_PLACEHOLDER) :]


def encode(sampled: Iterable[Sampled]) -> bytes:
    """An Arrow IPC file, its buffers compressed with zstd. One record a sample, in order.

    ``loss_mask`` and ``log_probs`` are as long as ``token_ids``; a log-prob is 0 where the mask is false.
    """
    import pyarrow as pa

    plain: dict[str, list[Any]] = {name: [] for name in _PLAIN}
    ids, mask, log_probs = array("i"), bytearray(), array("f")
    ends, versions, from_tokens, run_ends = array("i", [0]), array("q"), array("i"), array("i", [0])
    for one in sampled:
        for number, sample in enumerate(one.samples):
            for name, value in zip(_PLAIN, _facts(one, number, sample), strict=True):
                plain[name].append(value)
            begin = len(ids)
            ids.extend(sample.token_ids)
            mask.extend(bytes(len(sample.token_ids)))
            log_probs.frombytes(bytes(4 * len(sample.token_ids)))
            told = 0
            for first, last in sample.spans:
                mask[begin + first : begin + last] = b"\x01" * (last - first)
                log_probs[begin + first : begin + last] = array("f", sample.log_probs[told : told + last - first])
                told += last - first
            ends.append(len(ids))
            versions.extend(version for version, _ in sample.policy_runs)
            from_tokens.extend(first for _, first in sample.policy_runs)
            run_ends.append(len(versions))
    runs = pa.StructArray.from_arrays(
        [_numbers(pa.int64(), versions), _numbers(pa.int32(), from_tokens)], names=["version", "from_token"]
    )
    offsets = _numbers(pa.int32(), ends)
    columns = [
        *(pa.array(plain[name], type=getattr(pa, kind)()) for name, kind in _PLAIN.items()),
        pa.ListArray.from_arrays(offsets, _numbers(pa.int32(), ids)),
        pa.ListArray.from_arrays(offsets, _numbers(pa.uint8(), mask).cast(pa.bool_())),
        pa.ListArray.from_arrays(offsets, _numbers(pa.float32(), log_probs)),
        pa.ListArray.from_arrays(_numbers(pa.int32(), run_ends), runs),
    ]
    table = pa.table(columns, names=[*_PLAIN, "token_ids", "loss_mask", "log_probs", "policy_runs"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(data: bytes) -> pyarrow.Table:
    """The records of a file that ``encode`` made."""
    import pyarrow as pa

    with pa.ipc.open_file(pa.py_buffer(data)) as reader:
        return reader.read_all()


def join(tables: Sequence[pyarrow.Table]) -> pyarrow.Table:
    """Several files' records as one table; an empty one of no tables."""
    require_arrow()
    import pyarrow as pa

    # Files of before have fewer columns.
    return pa.concat_tables(tables, promote_options="default") if tables else decode(encode([]))


def of_results(table: pyarrow.Table, results: Collection[tuple[int, int, int]]) -> pyarrow.Table:
    """The records whose (task index, rollout index, attempt) is one of these: the others were made again."""
    import pyarrow as pa

    keys = zip(*(table[name].to_pylist() for name in ("task_index", "rollout_index", "attempt")), strict=True)
    return table.filter(pa.array([key in results for key in keys], type=pa.bool_()))


_PLAIN = {
    "rollout_id": "string",
    "task_id": "string",
    "task_index": "int64",
    "rollout_index": "int32",
    "attempt": "int32",
    "sample": "int32",
    "parent": "int32",
    "environment": "string",
    "agent": "string",
    "outcome": "string",
    "reward": "float64",
    "stop_reason": "string",
    "stale": "bool_",
}


def _facts(one: Sampled, number: int, sample: Sample) -> tuple[Any, ...]:
    assignment, attempt = one.assignment, one.attempt
    return (
        assignment.rollout_id,
        assignment.task_id,
        assignment.task_index,
        assignment.rollout_index,
        assignment.attempt,
        number,
        sample.parent,
        assignment.environment,
        one.agent,
        attempt.outcome,
        attempt.reward,
        attempt.stop_reason,
        attempt.stale,
    )


def _numbers(kind: pyarrow.DataType, values: array[Any] | bytearray) -> pyarrow.Array:
    """An Arrow array over a copy of the bytes."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(bytes(values))])
