"""Whether a folder can be loaded at all, looked at before an engine is touched.

An engine that fails in the middle of loading has no weights left, and vLLM's next request then ends it. What can be
seen from outside is seen here: nothing there, a shard that the index names is missing, a file that was cut off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from kubegym.model.weights.errors import WeightsError

Kind = Literal["Full", "Adapter"]

_INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = ("adapter_config.json", "adapter_model.safetensors")
_MOST_HEADER: Final = 100 << 20
"""Bytes; the format's own limit."""


def check_checkpoint(folder: Path, kind: Kind) -> None:
    """Look at the files of a checkpoint.

    Raises:
        WeightsError: "WeightsNotFound", there are none; "WeightsCorrupt", they are not whole.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not there", reason="WeightsNotFound")
    if kind == "Adapter":
        needed = list(_ADAPTER)
    elif (folder / _INDEX).is_file():
        needed = _shards(folder / _INDEX)
    else:
        needed = sorted(path.name for path in folder.glob("*.safetensors"))
    if not needed:
        raise WeightsError(f"{folder} holds no .safetensors", reason="WeightsNotFound")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing[:5])}", reason="WeightsNotFound")
    for name in needed:
        if name.endswith(".safetensors"):
            _whole(folder / name)


def check_gguf(path: Path) -> None:
    """Whether a file begins as GGUF does. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise WeightsError(f"{path} is no GGUF file")
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}", reason="WeightsNotFound") from None


def gguf_of(folder: Path) -> Path:
    """The one GGUF file of a folder, or the file itself. Raises WeightsError."""
    if folder.is_file():
        return folder
    found = sorted(folder.rglob("*.gguf")) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(f"{folder} should hold one .gguf file, not {names}", reason="WeightsNotFound")
    return found[0]


def _shards(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is no index of shards: {error}") from None
    if any(not isinstance(name, str) or "/" in name or name.startswith("..") for name in names):
        raise WeightsError(f"{index} names files outside of its folder")
    return sorted(names)


def _whole(path: Path) -> None:
    """A safetensors file: eight bytes of length, a JSON header of it, and the tensors, to the last byte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise WeightsError(f"{path} is cut off, or no safetensors file")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise WeightsError(f"{path} has no header that can be read: {error}") from None
    if not ends or 8 + length + max(ends) != size:
        raise WeightsError(f"{path} has {size} bytes, and its header says {8 + length + max(ends, default=0)}")
