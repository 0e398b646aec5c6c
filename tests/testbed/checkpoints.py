"""Folders of weights that differ, for engines that do not compute with them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kubegym.model.simulated.weights import simulated_log_probs
from kubegym.model.weights import CANARY_FILE, Canary, Probe

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
