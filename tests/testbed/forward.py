"""A forward pass of the test models in numpy: log-probs by a path that shares nothing with any engine."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubegym.model.weights import Canary, Probe

Array = NDArray[np.float32]
TOLERANCE = 0.02
"""Nats a token: float32 engines differ by less than 1e-4, llama.cpp with its cache of 16 bits by 4e-3."""


def tensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file, as copies."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[first:last], np.float32).reshape(entry["shape"]).copy()
    return found


def write_tensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a safetensors file."""
    header, place = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (place, place + array.nbytes)}
        place += array.nbytes
    head = json.dumps(header).encode()
    path.write_bytes(b"".join((len(head).to_bytes(8, "little"), head, *(one.tobytes() for one in arrays.values()))))


def log_probs(folder: Path, token_ids: Sequence[int]) -> list[float]:
    """The log-prob of each token but the first, by the Qwen3 model of a folder."""
    head = tensors(folder / "model.safetensors")["lm_head.weight"]
    logits = (hidden(folder, token_ids) @ head.T).astype(np.float64)
    top = logits.max(-1, keepdims=True)
    told = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return [float(told[place - 1, token]) for place, token in enumerate(token_ids) if place]


def rewards(folder: Path, token_ids: Sequence[int]) -> Array:
    """What the reward model of a folder gives after each token: a row of one number for each of its labels."""
    return hidden(folder, token_ids) @ tensors(folder / "model.safetensors")["score.weight"].T


def hidden(folder: Path, token_ids: Sequence[int]) -> Array:
    """What the last layer says after each token, normalised, before any head."""
    config = json.loads((folder / "config.json").read_text())
    weights = tensors(folder / "model.safetensors")
    heads, groups, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    epsilon, count = config["rms_norm_eps"], len(token_ids)
    frequencies = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angles = np.tile(np.outer(np.arange(count), frequencies), 2)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def norm(x: Array, name: str) -> Array:
        scale: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
        return scale * weights[name]

    def turned(x: Array) -> Array:
        half = size // 2
        other: Array = np.concatenate([-x[..., half:], x[..., :half]], -1)
        both: Array = x * cos + other * sin
        return both

    def cut(x: Array, name: str, parts: int) -> Array:
        return (x @ weights[name].T).reshape(count, parts, size).transpose(1, 0, 2)

    x = weights["model.embed_tokens.weight"][list(token_ids)]
    mask = np.triu(np.full((count, count), -np.inf, np.float32), 1)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm.weight")
        q = turned(norm(cut(y, f"{at}.self_attn.q_proj.weight", heads), f"{at}.self_attn.q_norm.weight"))
        k = turned(norm(cut(y, f"{at}.self_attn.k_proj.weight", groups), f"{at}.self_attn.k_norm.weight"))
        v = cut(y, f"{at}.self_attn.v_proj.weight", groups)
        k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(size).astype(np.float32) + mask
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(count, -1)
        x = x + mixed @ weights[f"{at}.self_attn.o_proj.weight"].T
        y = norm(x, f"{at}.post_attention_layernorm.weight")
        gate = y @ weights[f"{at}.mlp.gate_proj.weight"].T
        gated = gate / (1 + np.exp(-gate)) * (y @ weights[f"{at}.mlp.up_proj.weight"].T)
        x = x + gated @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight")


def canary_of(folder: Path) -> Canary:
    """The canary of a test model: sequences of all its vocabulary, and the log-probs that its numbers give."""
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    rng = random.Random(7)
    sequences = [(1, *(rng.randrange(size - 4) for _ in range(24))) for _ in range(4)]
    probes = [Probe(ids, tuple(round(one, 6) for one in log_probs(folder, ids))) for ids in sequences]
    return Canary(tuple(probes), TOLERANCE)
