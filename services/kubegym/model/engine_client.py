"""The model client of an engine in this process (``model.client`` has conversion, deadline and retries)."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from kubegym.model.client import Asking, Policy
from kubegym.model.errors import ModelTimeout, ModelUnavailable
from kubegym.model.retry import status_error


class Engine(Protocol):
    """A model in this process that answers chat completions."""

    name: str

    async def chat(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The ``chat.completion`` object. Raises ModelError, TimeoutError or OSError."""
        ...

    def close(self) -> None:
        """Free the engine."""
        ...


class EngineClient(Asking):
    """A model whose engine runs in this process.

    Args:
        engine: answers chat completions; closed with the client.
        options: see ``Asking``.
    """

    def __init__(self, engine: Engine, **options: Any) -> None:
        super().__init__(engine.name, **options)
        self._engine = engine
        self.context_tokens: int | None = getattr(engine, "context_tokens", None)

    @property
    def engine(self) -> Engine:
        """What answers."""
        return self._engine

    def __repr__(self) -> str:
        return f"EngineClient({self.model!r})"

    async def close(self) -> None:
        """Close the engine; it may have to wait for its threads, so not on the event loop's."""
        await asyncio.to_thread(self._engine.close)

    async def complete(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """A chat call as others wrote it, made once. Raises ModelError."""
        chat, _ = await self._chat(body, timeout)
        return cast("dict[str, Any]", chat)

    async def _chat(self, body: dict[str, Any], timeout: float) -> tuple[Any, Policy]:
        try:
            reply = await self._engine.chat(body, timeout)
        except TimeoutError:
            raise ModelTimeout(f"{self._where()} gave no answer in {timeout:g} s") from None
        except OSError as error:
            raise ModelUnavailable(f"{self._where()}: {error}") from error
        if isinstance(reply, dict) and isinstance(refusal := reply.get("error"), dict):
            status = refusal.get("code")
            text = f"{refusal.get('type', '')} {refusal.get('message', '')}"
            raise status_error(status if isinstance(status, int) else 500, text, self._where(), body.get("max_tokens"))
        return reply, (None, ())

    def _where(self) -> str:
        return f"engine {self.model}"
