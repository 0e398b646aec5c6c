"""LoRA adapters over the test models, and the same weights with the adapter added in: what an engine must answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from kubegym.model.weights import CANARY_FILE
from testbed.forward import Array, canary_of, tensors, write_tensors

RANK = 8
_TARGETS = ("q_proj", "v_proj", "o_proj")
_SIZE = 0.9
"""Of what is added, beside the weights: enough for other answers to most questions."""


def adapter(folder: Path, base: Path, seed: int) -> Path:
    """Write a random adapter and its canary; the folder of the weights with it added in, beside it."""
    numbers = np.random.default_rng(seed)
    parts: dict[str, Array] = {}
    summed = tensors(base / "model.safetensors")
    for name, weight in summed.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in _TARGETS:
            continue
        down = numbers.standard_normal((RANK, weight.shape[1])).astype(np.float32)
        up = numbers.standard_normal((weight.shape[0], RANK)).astype(np.float32)
        up *= _SIZE * np.float32(np.linalg.norm(weight) / np.linalg.norm(up @ down))
        summed[name] = weight + up @ down
        parts |= {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
    whole = folder.with_name(f"{folder.name}-added-in")
    shutil.copytree(base, whole)
    write_tensors(whole / "model.safetensors", summed)
    folder.mkdir()
    write_tensors(folder / "adapter_model.safetensors", parts)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "bias": "none", "target_modules": _TARGETS, "base_model_name_or_path": base.name})
    )
    canary = json.dumps(canary_of(whole).to_json())
    for one in (folder, whole):
        (one / CANARY_FILE).write_text(canary)
    return whole
