"""The training loop: next-token prediction on the assistant's side of generated conversations.

Deterministic: fixed seeds, one thread. The same number of steps with the same build of torch gives the same bytes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from kubegym.model.training.network import TinyQwen3
from kubegym.model.training.problems import KINDS, Kind, draw
from kubegym.model.training.tokenizer import IGNORED, encode

TOKENS_PER_BATCH = 512
LEARNING_RATE = 2e-3
_WARM_UP_STEPS = 50
_POOL = 2048
"""Problems drawn at a time and sorted by length, so that little of a batch is padding."""
_REPORT_EVERY = 500

Encoded = tuple[list[int], list[int]]
Save = Callable[[TinyQwen3, str], None]


def train(tokenizer: PreTrainedTokenizerFast, steps: int, checkpoints: dict[int, str], save: Save) -> TinyQwen3:
    """Train a new model.

    Args:
        tokenizer: as ``build_tokenizer`` makes it.
        steps: number of optimiser steps.
        checkpoints: step -> name of the checkpoint to save before that step.
        save: called with the model and the checkpoint's name.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TinyQwen3(len(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    started = time.monotonic()
    batches = _batches(tokenizer, random.Random(0))
    for step in range(steps):
        if step in checkpoints:
            save(model, checkpoints[step])
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _schedule(step, steps)
        loss = _update(model, optimizer, *next(batches))
        if (step + 1) % _REPORT_EVERY == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} {seconds:.0f}s loss {loss:.4f} {held_out_accuracy(model, tokenizer, 100)}", flush=True
            )
    return model


def held_out_accuracy(model: TinyQwen3, tokenizer: PreTrainedTokenizerFast, problems: int) -> dict[Kind, float]:
    """Share of held-out problems of each kind whose every assistant turn greedy decoding would get right.

    Teacher-forced, hence strict: a detour that still ends at the right answer counts as wrong here.
    """
    accuracy: dict[Kind, float] = {}
    for kind in KINDS:
        rng = random.Random(99)
        encoded = encode(tokenizer, [draw(rng, kind, "test") for _ in range(problems)])
        right = 0
        for start in range(0, problems, 50):
            ids, labels = _pad(encoded[start : start + 50])
            targets = labels[:, 1:]
            with torch.no_grad():
                chosen = model.logits(model(ids[:, :-1])).argmax(-1)
            right += int(((chosen == targets) | (targets == IGNORED)).all(1).sum().item())
        accuracy[kind] = round(right / problems, 3)
    return accuracy


def _update(model: TinyQwen3, optimizer: torch.optim.Optimizer, ids: Tensor, labels: Tensor) -> float:
    targets = labels[:, 1:]
    trained = targets != IGNORED
    loss = functional.cross_entropy(model.logits(model(ids[:, :-1])[trained]), targets[trained])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())


def _schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: a short warm-up, level, then linear to 2 % over the second half."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * min(1.0, (1 - step / steps) / 0.5 + 0.01)


def _batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        encoded = encode(tokenizer, [draw(rng) for _ in range(_POOL)])
        encoded.sort(key=lambda pair: len(pair[0]))
        grouped: list[list[Encoded]] = []
        group: list[Encoded] = []
        for pair in encoded:
            group.append(pair)
            if len(group) * len(pair[0]) >= TOKENS_PER_BATCH:
                grouped.append(group)
                group = []
        if group:
            grouped.append(group)
        rng.shuffle(grouped)
        yield from map(_pad, grouped)


def _pad(encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Ids and labels as [batch, length] tensors, length a multiple of 8."""
    length = -(-max(len(ids) for ids, _ in encoded) // 8) * 8
    ids = torch.zeros(len(encoded), length, dtype=torch.long)
    labels = torch.full((len(encoded), length), IGNORED)
    for row, (row_ids, row_labels) in enumerate(encoded):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        labels[row, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels
