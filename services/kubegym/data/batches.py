"""Token data as padded arrays, for a trainer."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from kubegym.core.errors import InvalidSpec

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("kubegym.data")

UNKNOWN_VERSION = -1


def batches(
    samples: pyarrow.Table,
    size: int,
    *,
    framework: Literal["numpy", "torch"] = "numpy",
    pad_id: int = 0,
    max_length: int | None = None,
    shuffle_seed: int | None = None,
    scored_only: bool = True,
) -> Iterator[dict[str, Any]]:
    """Batches of ``size`` samples, padded on the right to the longest of the batch; the last may be smaller.

    Args:
        samples: ``Results.samples``.
        size: samples of a batch.
        framework: what the arrays are.
        pad_id: the id that fills up.
        max_length: longer samples are left out, and their number is logged: half of one would be another sample.
        shuffle_seed: an order that the seed determines; None keeps the table's.
        scored_only: leave out samples of rollouts without a reward. Stale ones are left out in any case.

    Yields:
        ``input_ids`` (batch, length) int64; ``attention_mask`` and ``loss_mask`` (batch, length) bool; ``log_probs``
        (batch, length) float32, 0 where the loss mask is false; ``policy_versions`` (batch, length) int64 of generated
        tokens, -1 where it is not known; ``rewards`` (batch,) float32, NaN where there is none; ``rollout_ids``.

    Raises:
        InvalidSpec: no size, or "MissingDependency": numpy or torch is not installed.
    """
    if size < 1:
        raise InvalidSpec(f"a batch has at least one sample, not {size}")
    try:
        import numpy as np

        if framework == "torch":
            import torch
    except ImportError as error:
        raise InvalidSpec(f"batches for {framework} need it installed: {error}", reason="MissingDependency") from None
    order = _order(samples, max_length, scored_only)
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(order)
    for first in range(0, len(order), size):
        batch = _padded(samples.take(order[first : first + size]), pad_id, np)
        if framework == "torch":
            batch = {name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for name, one in batch.items()}
        yield batch


def _order(samples: pyarrow.Table, max_length: int | None, scored_only: bool) -> list[int]:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(samples["token_ids"]).to_pylist()
    outcomes = samples["outcome"].to_pylist()
    stale = samples["stale"].to_pylist() if "stale" in samples.column_names else [None] * len(outcomes)
    wanted = [n for n, outcome in enumerate(outcomes) if not stale[n] and (outcome == "scored" or not scored_only)]
    order = [n for n in wanted if max_length is None or lengths[n] <= max_length]
    if len(order) < len(wanted):
        log.warning("%d of %d samples are longer than %d tokens", len(wanted) - len(order), len(wanted), max_length)
    return order


def _padded(samples: pyarrow.Table, pad_id: int, np: Any) -> dict[str, Any]:
    ids, masks = samples["token_ids"].combine_chunks(), samples["loss_mask"].combine_chunks()
    log_probs, runs = samples["log_probs"].combine_chunks(), samples["policy_runs"].to_pylist()
    lengths = [len(one) for one in ids]
    shape = (len(lengths), max(lengths, default=0))
    batch = {
        "input_ids": np.full(shape, pad_id, np.int64),
        "attention_mask": np.zeros(shape, bool),
        "loss_mask": np.zeros(shape, bool),
        "log_probs": np.zeros(shape, np.float32),
        "policy_versions": np.full(shape, UNKNOWN_VERSION, np.int64),
        "rewards": np.array([np.nan if one is None else one for one in samples["reward"].to_pylist()], np.float32),
        "rollout_ids": samples["rollout_id"].to_pylist(),
    }
    for row, length in enumerate(lengths):
        batch["input_ids"][row, :length] = ids[row].values.to_numpy()
        batch["attention_mask"][row, :length] = True
        batch["loss_mask"][row, :length] = masks[row].values.to_numpy(zero_copy_only=False)
        batch["log_probs"][row, :length] = log_probs[row].values.to_numpy()
        for run in runs[row]:
            batch["policy_versions"][row, run["from_token"] : length] = run["version"]
        batch["policy_versions"][row][~batch["loss_mask"][row]] = UNKNOWN_VERSION
    return batch
