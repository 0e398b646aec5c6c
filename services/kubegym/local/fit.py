"""Whether a run's models can do what its rows need: asked before the run, not by its first thousand failures.

Two things are needed of a policy beyond text of ordinary length: that it sees images, and that its context window is as
large as a row says (``context_tokens``: the tokens of prompt, tools and answers together). Some endpoints tell the
second in their list of models (vLLM's ``max_model_len``, which our model server hands on); none tells the first, so it
is asked one question. Where an agent server makes the attempts, the model that it asks is asked here, if it is known.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError, ModelUnsuitable
from kubegym.core.messages import Image, Message
from kubegym.core.protocols import CallContext
from kubegym.local.episodes import LocalEpisodes, Part
from kubegym.local.models import build_client
from kubegym.model.client import ChatClient
from kubegym.model.endpoint import check_endpoint, context_window
from kubegym.model.engine_client import EngineClient

log = logging.getLogger("kubegym.local")

_SIDE = 64
_SECONDS = 120.0
_Asked = ChatClient | EngineClient | ModelServerClient
"""Models that may be asked a question of ours; what was given in Python is its owner's."""


@dataclass(slots=True)
class Needs:
    """What rows need, by entry.

    Attributes:
        images: where the first image is.
        context: the largest ``context_tokens``, and where it stands.
    """

    images: dict[str, str] = field(default_factory=dict)
    context: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note_image(self, entry: str, place: str) -> None:
        """A row of the entry has an image."""
        self.images.setdefault(entry, place)

    def note_context(self, entry: str, row: dict[str, Any], place: str) -> str | None:
        """What the row says of its context; what is wrong with that, or None."""
        tokens = row.get("context_tokens")
        if tokens is None:
            return None
        if type(tokens) is not int or tokens < 1:
            return f"context_tokens: must be an integer of at least 1, not {tokens!r:.100}"
        if tokens > self.context.get(entry, (0, ""))[0]:
            self.context[entry] = (tokens, place)
        return None

    def of(self, name: str, part: Part) -> tuple[str | None, tuple[int, str] | None]:
        """What an entry's policy is to be asked: where its first image is, and its largest context; None: nothing."""
        shown = self.images.get(name) or ("what its tools answer" if part.runtime.cls.images else None)
        return shown, self.context.get(name)


async def check_fit(needs: Needs, episodes: LocalEpisodes) -> None:
    """Ask the policies of a run for what its rows need.

    Not asked is what was given in Python, and what an agent server asks that is only known by its URL.

    Raises:
        ModelUnsuitable: a policy sees no images, or its context window is too small.
        ModelError: it cannot be asked.
    """
    for name, part in episodes.parts.items():
        shown, context = needs.of(name, part)
        if shown is None and context is None:
            continue
        async with _policy(part) as policy:
            if policy is None:
                continue
            if context is not None:
                await _check_context(name, policy, *context)
            if shown is not None:
                await _check_sight(name, policy, shown)


async def check_when_there(needs: Needs, episodes: LocalEpisodes) -> None:
    """``check_fit`` for a worker, whose models come and go: one that cannot be asked after all passes.

    Raises:
        ModelUnsuitable: see ``check_fit``.
        ModelError: a model refuses whoever asks.
    """
    try:
        await check_fit(needs, episodes)
    except ModelError as error:
        if not error.retryable:
            raise
        log.warning("the policy could not be asked whether it can do what the rows need: %s", error.message)


@asynccontextmanager
async def _policy(part: Part) -> AsyncIterator[_Asked | None]:
    """Who answers the policy's calls, here or behind the agent server; None: nobody that we may ask."""
    given, behind = part.models.get("policy"), part.entry.agent_policy
    if given is not None or behind is None:
        yield given if isinstance(given, _Asked) else None
        return
    client = build_client(behind, concurrency=1)
    try:
        yield client if isinstance(client, _Asked) else None
    finally:
        await client.close()


async def _check_context(name: str, policy: _Asked, tokens: int, place: str) -> None:
    window = await _window(policy)
    if window is not None and window < tokens:
        raise ModelUnsuitable(
            f"{name}: {place} needs a context of {tokens:,} tokens, and the model {policy.model} has {window:,}. "
            "Use another model (or a larger max-model-len), or leave such rows out; nothing was run"
        )


async def _window(policy: _Asked) -> int | None:
    if isinstance(policy, ModelServerClient):
        try:
            return context_window(await policy.models(_context()), policy.model)
        except ModelError as error:
            if error.status in (404, 405):
                return None
            raise
    if isinstance(policy, ChatClient) and policy.context_tokens is None:
        await check_endpoint(policy)
    return policy.context_tokens


async def _check_sight(name: str, policy: _Asked, shown: str) -> None:
    question = Message.user("What is this?", Image.of(_square()))
    request = {"input": [question.to_item()], "max_output_tokens": 1}
    try:
        await policy.respond(request, _context())
    except ModelError as error:
        if error.retryable or error.status in (401, 403, 404):
            raise
        raise ModelUnsuitable(
            f"{name}: the model {policy.model} sees no images, and there are some in {shown}. "
            f"Use a vision model; nothing was run\n  {error.message}"
        ) from error


def _context() -> CallContext:
    return CallContext("fit", Deadline(_SECONDS, _SECONDS))


def _square() -> bytes:
    """A grey square as a PNG, large enough for every model's patches."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    lines = (b"\0" + b"\x80" * _SIDE) * _SIDE
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
