"""The files that training leaves: the shipped model, its GGUF twin, the model card, the earlier checkpoints."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from kubegym.model.embedded import SHIPPED_MODEL
from kubegym.model.training.chat_format import TOOL_MARKS, chat_template

pytestmark = pytest.mark.unit

SHIPPED = SHIPPED_MODEL.parent
CHECKPOINTS = [Path(__file__).parents[2] / "models" / f"ckpt-{number}" for number in (1, 2, 3)]
FOLDERS = [SHIPPED, *CHECKPOINTS]


def tensors(folder: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and bytes of every tensor of a safetensors file: 8 bytes length, a JSON header, the data."""
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8:start])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    spans = {name: (entry["shape"], entry["data_offsets"]) for name, entry in header.items()}
    return {name: (shape, raw[start + first : start + last]) for name, (shape, (first, last)) in spans.items()}


def test_the_card_names_the_weights_that_ship() -> None:
    card = (SHIPPED / "README.md").read_text()
    for name in ("model.safetensors", "tiny.gguf"):
        digest = hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest()
        assert re.search(rf"`{re.escape(name)}`.*`{digest}`", card), f"the card has no SHA-256 {digest} for {name}"


def test_the_gguf_holds_the_folder_s_numbers() -> None:
    gguf = SHIPPED_MODEL.read_bytes()
    assert gguf.startswith(b"GGUF")
    assert all(data in gguf for _, data in tensors(SHIPPED).values())
    assert chat_template().encode() in gguf


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_a_whole_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is False
    weights = tensors(folder)
    assert weights["lm_head.weight"][0] == [config["vocab_size"], config["hidden_size"]]
    # 510,272 parameters and the head, which training shares with the embedding and the file has of its own.
    assert sum(math.prod(shape) for shape, _ in weights.values()) == 510_272 + 522 * 128
    assert (folder / "chat_template.jinja").read_text().strip() == chat_template()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {added["content"]: added["special"] for added in tokenizer["added_tokens"]}
    assert special["<|im_end|>"]
    assert not any(special[mark] for mark in TOOL_MARKS)


def test_checkpoints_differ_from_each_other_and_from_the_model() -> None:
    assert len({hashlib.sha256((folder / "model.safetensors").read_bytes()).digest() for folder in FOLDERS}) == 4
