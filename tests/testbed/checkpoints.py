"""Folders of weights that differ: made-up ones, GGUF twins of the test checkpoints, a reward model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np

from kubegym.model.embedded import SHIPPED_MODEL
from kubegym.model.simulated.weights import simulated_log_probs
from kubegym.model.weights import CANARY_FILE, Canary, Probe
from testbed.forward import tensors, write_tensors

SEQUENCES = ((5, 9, 2, 6, 5, 3, 5), (1, 4, 1, 4, 2, 1))


def checkpoint(folder: Path, *, adapter: bool = False) -> Path:
    """A folder with weights that are its name's, and their canary."""
    folder.mkdir(parents=True)
    data = random.Random(folder.name).randbytes(64)
    header = json.dumps({"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + data)
    if adapter:
        (folder / "adapter_config.json").write_text("{}")
    probes = tuple(Probe(ids, tuple(simulated_log_probs(folder, ids))) for ids in SEQUENCES)
    (folder / CANARY_FILE).write_text(json.dumps(Canary(probes, 0.001).to_json()))
    return folder


def gguf(folder: Path, weights: Path) -> Path:
    """A folder with the GGUF twin of a checkpoint, and its canary: the shipped twin with that one's numbers."""
    mine, others = (tensors(one / "model.safetensors") for one in (SHIPPED_MODEL.parent, weights))
    data = SHIPPED_MODEL.read_bytes()
    for name, tensor in mine.items():
        data = data.replace(tensor.tobytes(), others[name].tobytes())
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(data)
    (folder / CANARY_FILE).write_bytes((weights / CANARY_FILE).read_bytes())
    return folder


def reward_model(folder: Path, labels: int) -> Path:
    """The shipped model with a head that gives ``labels`` numbers, drawn once and for all, instead of words."""
    shutil.copytree(SHIPPED_MODEL.parent, folder)
    config = json.loads((folder / "config.json").read_text())
    size, rng = config["hidden_size"], random.Random(7)
    drawn = [rng.uniform(-0.1, 0.1) for _ in range(labels * size)]
    arrays = tensors(folder / "model.safetensors")
    arrays["score.weight"] = np.array(drawn, np.float32).reshape(labels, size)
    write_tensors(folder / "model.safetensors", arrays)
    names = {str(label): f"LABEL_{label}" for label in range(labels)}
    config |= {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": labels, "id2label": names}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
