"""``python -m kubegym.model.training OUT [--steps 8000] [--checkpoints DIR]``: make the shipped model from nothing."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from kubegym.model.training.export import save_folder
from kubegym.model.training.network import TinyQwen3
from kubegym.model.training.to_gguf import write_gguf
from kubegym.model.training.tokenizer import build_tokenizer
from kubegym.model.training.train import held_out_accuracy, train

STEPS = 8000
CHECKPOINT_SHARES = {"ckpt-1": 0.15, "ckpt-2": 0.35, "ckpt-3": 0.60}
"""Earlier checkpoints, by the share of the steps done: weights to update a server with, each better than the last."""


def main() -> None:
    """Train, save the folder, its GGUF twin and the checkpoints, and print what was reached."""
    parser = argparse.ArgumentParser(prog="python -m kubegym.model.training", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (default %(default)s)")
    parser.add_argument("--checkpoints", type=Path, help="folder for ckpt-1..3 (default: beside OUT)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    checkpoints: Path = arguments.checkpoints or out.resolve().parent

    tokenizer = build_tokenizer()

    def save_checkpoint(model: TinyQwen3, name: str) -> None:
        save_folder(model, tokenizer, checkpoints / name)

    at_step = {int(share * arguments.steps): name for name, share in CHECKPOINT_SHARES.items()}
    model = train(tokenizer, arguments.steps, at_step, save_checkpoint)
    save_folder(model, tokenizer, out)
    write_gguf(out, out / "tiny.gguf", name="tiny")
    print("held out, teacher-forced:", held_out_accuracy(model, tokenizer, 500))
    for name in ("model.safetensors", "tiny.gguf"):
        print(hashlib.sha256((out / name).read_bytes()).hexdigest(), name)


if __name__ == "__main__":
    main()
