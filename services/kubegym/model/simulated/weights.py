"""Weights of the simulated engine: folders that are never read as numbers, and vLLM's routes to exchange them.

What an engine with these weights would answer is made up from the files' digests, so that other weights answer
otherwise, and the canary of a folder can be told. The traps of the real one are there: a reload that fails leaves no
weights, the request after it ends the engine, and on demand weights do not arrive though the reply is 200.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import orjson

Fault = Literal["stale", "head"]
"""``stale``: nothing that is loaded arrives; ``head``: of what is loaded, one part does not (a tied, packed head)."""

Answer = tuple[int, dict[str, Any]]


def simulated_log_probs(folder: Path, token_ids: Sequence[int], head: Path | None = None) -> list[float]:
    """What the weights of a folder answer; ``head``: a folder whose head they have instead of their own."""
    body, tail = _digest(folder), _digest(head or folder)
    return [
        -(_number(body, before, token) + _number(tail + b"head", before, token)) / 64
        for before, token in pairwise(token_ids)
    ]


def _digest(folder: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.digest()


def _number(key: bytes, before: int, token: int) -> int:
    return hashlib.blake2b(b"%d %d" % (before, token), key=key[:64], digest_size=1).digest()[0]


class SimulatedWeights:
    """What one engine has loaded.

    Args:
        model: its name.
        folder: its first weights.
        fault: what goes wrong.
        end: ends the engine.
        pause: lets nobody in, or lets them in again.
        abort: gives up what is at work; how many.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        fault: Fault | None,
        end: Callable[[], None],
        pause: Callable[[bool], None],
        abort: Callable[[], int],
    ) -> None:
        self._model = model
        self._first = self._head = folder
        self.folder: Path | None = folder
        self._fault = fault
        self._end, self._pause, self._abort = end, pause, abort
        self._paused = False
        self._version: str | None = None
        self._adapters: dict[str, Path] = {}

    def name(self, model: Any) -> str:
        """Of the folder that answers calls for a model, for replies."""
        folder = self._adapters.get(str(model), self.folder)
        return folder.name if folder is not None else "none"

    def answer(self, method: bytes, path: bytes, query: bytes, raw: bytes) -> Answer | None:
        """The reply to one of vLLM's routes; None: it is none of these."""
        if (method, path) == (b"GET", b"/weight_info"):
            return 200, {"weight_version": self._version}
        if (method, path) == (b"GET", b"/is_paused"):
            return 200, {"is_paused": self._paused}
        if (method, path) == (b"GET", b"/v1/models"):
            return 200, {"object": "list", "data": [self._listed(self._model), *map(self._listed, self._adapters)]}
        work = {
            b"/pause": self._on_pause,
            b"/resume": self._on_resume,
            b"/abort_requests": lambda body: (200, {"status": "aborted", "aborted": self._abort()}),
            b"/collective_rpc": self._on_reload,
            b"/reset_prefix_cache": lambda body: (200, {"success": True}),
            b"/update_weight_version": self._on_version,
            b"/v1/load_lora_adapter": self._on_adapter,
            b"/v1/unload_lora_adapter": self._on_unload,
            b"/v1/completions": self._on_completion,
        }.get(path)
        if method != b"POST" or work is None:
            return None
        return work(orjson.loads(raw) if raw else {})

    def asked(self) -> None:
        """A request comes to the engine: without weights that is its end."""
        if self.folder is None:
            self._end()

    def _listed(self, name: str) -> dict[str, Any]:
        root = str(self._adapters.get(name, self._first))
        return {"id": name, "object": "model", "created": 0, "owned_by": "kubegym-simulated", "root": root}

    def _on_pause(self, body: dict[str, Any]) -> Answer:
        self._paused = True
        self._pause(True)
        self._abort()
        return 200, {"status": "paused"}

    def _on_resume(self, body: dict[str, Any]) -> Answer:
        self._paused = False
        self._pause(False)
        return 200, {"status": "resumed"}

    def _on_reload(self, body: dict[str, Any]) -> Answer:
        folder = Path(body["kwargs"]["weights_path"])
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if not files or any(path.stat().st_size < 8 for path in files):
            self.folder = None
            return 500, {"error": {"message": f"cannot load {folder}", "type": "InternalServerError", "code": 500}}
        if self._fault != "stale":
            self.folder = folder
            self._head = self._head if self._fault == "head" else folder
        return 200, {"results": [None]}

    def _on_version(self, body: dict[str, Any]) -> Answer:
        self._version = body["new_version"]
        return 200, {"success": True}

    def _on_adapter(self, body: dict[str, Any]) -> Answer:
        folder = Path(body["lora_path"])
        if not (folder / "adapter_model.safetensors").is_file():
            return 404, {"error": {"message": f"No adapter found for {folder}", "type": "NotFoundError", "code": 404}}
        known = body["lora_name"] in self._adapters
        if known:
            return 400, {"error": {"message": "it has already been loaded", "type": "BadRequestError", "code": 400}}
        self._adapters[body["lora_name"]] = self._first if self._fault == "stale" else folder
        return 200, {}

    def _on_unload(self, body: dict[str, Any]) -> Answer:
        if self._adapters.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": "no such adapter", "type": "NotFoundError", "code": 404}}
        return 200, {}

    def _on_completion(self, body: dict[str, Any]) -> Answer:
        self.asked()
        if self.folder is None:
            return 500, {"error": {"message": "EngineCore encountered an issue", "code": 500}}
        ids, adapter = body["prompt"], self._adapters.get(body["model"])
        told = simulated_log_probs(adapter or self.folder, ids, None if adapter else self._head)
        log_probs = [None, *({str(one): {"logprob": value}} for one, value in zip(ids[1:], told, strict=True))]
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": log_probs}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        return 200, {"id": "cmpl", "object": "text_completion", "choices": [choice], "usage": usage}
