"""How engines take weights: vLLM by its control routes, the embedded engine in this process.

What is true of vLLM 0.32 and decides the order of calls (each was seen on the real one): a reload that fails leaves no
weights, and the next request ends the engine, so that it stays paused until a good reload; a reload keeps the prefix
cache of the weights before; ``/health`` says 200 all along, and the reload 200 even where nothing arrived.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from kubegym.core.errors import InputError, ModelError
from kubegym.model.client import ChatClient
from kubegym.model.embedded import EmbeddedEngine
from kubegym.model.engine_client import EngineClient
from kubegym.model.kept import OURS, RENDER, KeptCalls, label_of
from kubegym.model.weights.checkpoint import Kind, check_checkpoint, check_gguf, gguf_of
from kubegym.model.weights.errors import WeightsError

LOAD_SECONDS: Final = 1800.0
"""For one engine to read its weights again."""
ASK_SECONDS: Final = 120.0
"""For one canary sequence: the first after a start may wait for a compiler."""
_BESIDE_SECONDS: Final = 30.0
_ABORT_EVERY: Final = 0.2
_JSON: Final = ((b"content-type", b"application/json"),)


class WeightsEngine(Protocol):
    """One engine whose weights can be exchanged.

    A ``label`` names what was loaded; empty: what the engine started with.

    Attributes:
        kept: the calls that stay while weights change; None: it keeps none.
    """

    kept: KeptCalls | None

    async def keep(self, on: bool) -> None:
        """Whether calls from now on are to stay while weights change. Raises WeightsError where it keeps none."""
        ...

    async def label(self) -> str | None:
        """Of what it has loaded; None: it does not answer."""
        ...

    def check(self, folder: Path, kind: Kind) -> None:
        """Whether a folder can be loaded at all. Raises WeightsError."""
        ...

    async def load(self, folder: Path | None, label: str, *, keep: bool = False) -> None:
        """Serve these weights, its own first ones where ``folder`` is None. Nobody else asks meanwhile.

        Args:
            folder: where they lie.
            label: what they are called from now on.
            keep: calls that are under way go on with them; else they end.

        Raises:
            WeightsError: it did not take them, and must be asked nothing before it took others.
        """
        ...

    async def adapt(self, folder: Path, label: str) -> str:
        """Load an adapter beside what is served; the name to ask for it. Raises WeightsError."""
        ...

    def use(self, adapter: str | None) -> None:
        """From now on calls are for this adapter; None: for the model itself."""
        ...

    async def drop(self, adapter: str) -> None:
        """An adapter is no longer needed."""
        ...

    async def ask(self, sequences: Sequence[Sequence[int]], adapter: str | None = None) -> list[list[float]]:
        """The log-prob of each token of each sequence but the first. Raises WeightsError."""
        ...

    async def alone(self) -> bool:
        """Whether nobody else may be at work while it is asked. Raises WeightsError."""
        ...

    async def give_up(self) -> None:
        """End what is at work, as far as the engine can; called again and again until nothing is."""
        ...


class VllmWeights:
    """VLLM, started with ``VLLM_SERVER_DEV_MODE=1``.

    For adapters it needs ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, for calls that stay ``--enable-scale-out``.

    Args:
        client: asks it.
    """

    def __init__(self, client: ChatClient) -> None:
        self.kept: KeptCalls | None = KeptCalls()
        self._client = client
        self._first: str | None = None
        self._alone: bool | None = None
        self._asking = asyncio.Lock()

    async def label(self) -> str | None:
        """See ``WeightsEngine``: vLLM keeps it, and loses it with its weights when it starts anew."""
        try:
            reply = await self._client.get_beside("weight_info", _BESIDE_SECONDS)
        except ModelError:
            return None
        if reply.status in (404, 405):
            return ""  # an engine without this route; it is told so when it shall load
        if reply.status != 200:
            return None
        return label_of(orjson.loads(reply.body).get("weight_version"))

    def check(self, folder: Path, kind: Kind) -> None:
        """See ``WeightsEngine``."""
        check_checkpoint(folder, kind)

    async def keep(self, on: bool) -> None:
        """See ``WeightsEngine``."""
        if on:  # the routes by which it tells which weights made which token
            question = {"model": self._client.model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
            try:
                await self._order(RENDER, question, ASK_SECONDS)
            except WeightsError as error:
                why = f"onUpdate Continue needs vLLM 0.32 or newer with --enable-scale-out: {error.message}"
                if error.reason == "WeightsUnsupported":
                    raise WeightsError(why, reason="WeightsUnsupported") from None
                raise
            if await self.alone():
                why = "onUpdate Continue: an engine that takes adapters is asked its canary alone: Finish or Abort"
                raise WeightsError(why, reason="WeightsUnsupported")
        self._client.kept = self.kept if on else None

    async def load(self, folder: Path | None, label: str, *, keep: bool = False) -> None:
        """See ``WeightsEngine``."""
        path = str(folder) if folder is not None else await self._first_path()
        # Kept calls lose their place in the cache, too: what they have is read again by the new weights. Else nobody is
        # at work, and what came past us ends.
        await self._order("pause?mode=keep&clear_cache=true" if keep else "pause?mode=abort")
        await self._order("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        for _ in range(50):
            if (await self._order("reset_prefix_cache?reset_running_requests=true")).get("success", True):
                break
            await asyncio.sleep(_ABORT_EVERY)  # blocks are still held
        else:
            raise WeightsError("the prefix cache of the weights before could not be cleared")
        await self._order("update_weight_version", {"new_version": OURS + label})
        await self._order("resume")

    async def adapt(self, folder: Path, label: str) -> str:
        """See ``WeightsEngine``. The name is new each time: an engine may serve what an old name once meant."""
        name = f"{self._client.model}-v{label}-{secrets.token_hex(3)}"
        await self._order("v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        await self._order("update_weight_version", {"new_version": OURS + label})
        return name

    def use(self, adapter: str | None) -> None:
        """See ``WeightsEngine``."""
        self._client.adapter = adapter

    async def drop(self, adapter: str) -> None:
        """See ``WeightsEngine``."""
        await self._order("v1/unload_lora_adapter", {"lora_name": adapter})

    async def ask(self, sequences: Sequence[Sequence[int]], adapter: str | None = None) -> list[list[float]]:
        """See ``WeightsEngine``. Such questions are computed anew: vLLM does not take them from its prefix cache."""
        answers = []
        async with self._asking:
            for ids in sequences:
                body = {"model": adapter or self._client.model, "prompt": list(ids), "max_tokens": 1}
                body |= {"temperature": 0, "prompt_logprobs": 0}
                answers.append(_prompt_log_probs(await self._order("v1/completions", body, ASK_SECONDS), ids))
        return answers

    async def alone(self) -> bool:
        """See ``WeightsEngine``.

        vLLM 0.32 for CPUs ends where a prompt's log-probs are asked beside another call, if it takes adapters: its
        ``add_lora_logits`` gets a row for each token, and an adapter for each call.
        """
        if self._alone is None:
            try:
                reply = await self._client.get_beside("openapi.json", _BESIDE_SECONDS)
            except ModelError as error:
                raise WeightsError(error.message, reason="EngineUnavailable") from None
            self._alone = b'"/v1/load_lora_adapter"' in reply.body
        return self._alone

    async def give_up(self) -> None:
        """See ``WeightsEngine``."""
        await self._order("abort_requests", {})

    async def _first_path(self) -> str:
        """Where its first weights lie, as it says itself."""
        if self._first is None:
            told = await self._get("v1/models")
            roots = [one.get("root") for one in told.get("data", ()) if one.get("id") == self._client.model]
            if not roots or not isinstance(roots[0], str):
                raise WeightsError("the engine does not say where its first weights lie", reason="WeightsUnsupported")
            self._first = roots[0]
        return self._first

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            reply = await self._client.get(path.removeprefix("v1/"), _BESIDE_SECONDS)
        except ModelError as error:
            raise WeightsError(error.message, reason="EngineUnavailable") from None
        return _object(path, reply.status, reply.body)

    async def _order(
        self, path: str, body: Mapping[str, Any] | None = None, seconds: float = LOAD_SECONDS
    ) -> dict[str, Any]:
        route, _, query = path.partition("?")
        url = self._client.at(route)
        if query:
            url = url.asking(query.encode())
        try:
            reply = await self._client.post(url, _JSON, b"" if body is None else orjson.dumps(body), seconds)
        except ModelError as error:
            raise WeightsError(f"{route}: {error.message}", reason="EngineUnavailable") from None
        if reply.status in (403, 404, 405) and route != "v1/completions":
            raise WeightsError(
                f"the engine has no /{route} (vLLM: VLLM_SERVER_DEV_MODE=1, for adapters "
                f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1): {reply.body[:200].decode(errors='replace')}",
                reason="WeightsUnsupported",
            )
        return _object(route, reply.status, reply.body)


def weights_engine(client: ChatClient | EngineClient) -> WeightsEngine | None:
    """The engine behind a client, where its weights can be exchanged."""
    if isinstance(client, ChatClient):
        return VllmWeights(client)
    engine = client.engine
    return EmbeddedWeights(engine) if isinstance(engine, EmbeddedEngine) else None


def _object(route: str, status: int, body: bytes) -> dict[str, Any]:
    if status != 200:
        raise WeightsError(f"/{route} answered {status}: {body[:500].decode(errors='replace')}")
    try:
        told = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        return {}  # "Success: LoRA adapter ... added"
    return told if isinstance(told, dict) else {}


def _prompt_log_probs(told: Mapping[str, Any], ids: Sequence[int]) -> list[float]:
    try:
        first, *others = told["choices"][0]["prompt_logprobs"]
        assert first is None
        return [float(one[str(token)]["logprob"]) for token, one in zip(ids[1:], others, strict=True)]
    except (LookupError, TypeError, ValueError, AssertionError) as error:
        raise WeightsError(
            f"the engine tells no log-probs of a prompt: {error!r}", reason="WeightsUnsupported"
        ) from None


class EmbeddedWeights:
    """The embedded engine: GGUF files; another one is loaded beside the first and takes its place.

    Args:
        engine: it.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.kept: KeptCalls | None = None
        self._engine = engine
        self._label = ""

    async def label(self) -> str | None:
        """See ``WeightsEngine``."""
        return self._label

    def check(self, folder: Path, kind: Kind) -> None:
        """See ``WeightsEngine``."""
        if kind == "Adapter":
            raise WeightsError("the embedded engine takes no adapters", reason="WeightsUnsupported")
        check_gguf(gguf_of(folder))

    async def keep(self, on: bool) -> None:
        """See ``WeightsEngine``: another engine takes its place, which knows nothing of its calls."""
        if on:
            raise WeightsError("the embedded engine keeps no calls: Finish or Abort", reason="WeightsUnsupported")

    async def load(self, folder: Path | None, label: str, *, keep: bool = False) -> None:
        """See ``WeightsEngine``."""
        path = None if folder is None else gguf_of(folder)
        try:
            await asyncio.to_thread(self._engine.load, path)
        except (InputError, OSError) as error:
            raise WeightsError(f"the embedded engine cannot load {path}: {error}") from None
        self._label = label

    async def adapt(self, folder: Path, label: str) -> str:
        """See ``WeightsEngine``."""
        raise WeightsError("the embedded engine takes no adapters", reason="WeightsUnsupported")

    def use(self, adapter: str | None) -> None:
        """See ``WeightsEngine``."""

    async def drop(self, adapter: str) -> None:
        """See ``WeightsEngine``."""

    async def ask(self, sequences: Sequence[Sequence[int]], adapter: str | None = None) -> list[list[float]]:
        """See ``WeightsEngine``."""
        try:
            return [await self._engine.log_probs(list(ids), ASK_SECONDS) for ids in sequences]
        except ModelError as error:
            raise WeightsError(error.message) from None

    async def alone(self) -> bool:
        """See ``WeightsEngine``."""
        return False

    async def give_up(self) -> None:
        """See ``WeightsEngine``: its answers are short, and end by themselves."""
