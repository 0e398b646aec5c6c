"""Write a model as a Hugging Face folder, which vLLM and transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from kubegym.model.training.network import TinyQwen3, qwen3_config


def save_folder(model: TinyQwen3, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (float32), configuration, tokenizer and chat template to ``folder``, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors["lm_head.weight"] = model.embed_tokens.weight.detach().clone()
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # save_file leaves 0600, which a server under another user could not read
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    _write_json(folder / "config.json", qwen3_config(len(tokenizer), end, pad))
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": end, "pad_token_id": pad, "do_sample": True, "temperature": 1.0},
    )
    tokenizer.save_pretrained(folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
