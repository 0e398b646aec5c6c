"""Whether a run's models can do what its rows need: asked before the run, not by its first thousand failures.

Two things are needed of a policy beyond text of ordinary length: that it sees images, and that its context window is as
large as a row says (``context_tokens``: the tokens of prompt, tools and answers together). Some endpoints tell the
second in their list of models (vLLM's ``max_model_len``); none tells the first, so it is asked one question.
"""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from kubegym.agent.model_server import ModelServerClient
from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError, ModelUnsuitable
from kubegym.core.messages import Image, Message
from kubegym.core.protocols import CallContext, ModelClient
from kubegym.local.episodes import LocalEpisodes
from kubegym.model.client import ChatClient
from kubegym.model.engine_client import EngineClient

log = logging.getLogger("kubegym.local")

_SIDE = 64
_SECONDS = 120.0
_ASKED = (ChatClient, EngineClient, ModelServerClient)
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


async def check_fit(needs: Needs, episodes: LocalEpisodes) -> None:
    """Ask the policies of a run for what its rows need. An agent server's own models are not asked.

    Raises:
        ModelUnsuitable: a policy sees no images, or its context window is too small.
        ModelError: it cannot be asked.
    """
    for name, part in episodes.parts.items():
        policy = part.models.get("policy")
        if not isinstance(policy, _ASKED):
            continue
        if name in needs.context:
            _check_context(name, policy, *needs.context[name])
        shown = needs.images.get(name)
        if shown is None and part.runtime.cls.images:
            shown = "what its tools answer"
        if shown is not None:
            await _check_sight(name, policy, shown)


async def check_when_there(needs: Needs, episodes: LocalEpisodes) -> None:
    """``check_fit`` for a worker that may be there before its models: what cannot be asked yet passes.

    Raises:
        ModelUnsuitable: see ``check_fit``.
        ModelError: a model refuses whoever asks.
    """
    try:
        await check_fit(needs, episodes)
    except ModelError as error:
        if not error.retryable:
            raise
        log.warning("the policy could not be asked whether it sees images: %s", error.message)


def _check_context(name: str, policy: ModelClient, tokens: int, place: str) -> None:
    window = getattr(policy, "context_tokens", None)
    if window is not None and window < tokens:
        raise ModelUnsuitable(
            f"{name}: {place} needs a context of {tokens:,} tokens, and the model {policy.model} has {window:,}. "
            "Use another model (or a larger max-model-len), or leave such rows out; nothing was run"
        )


async def _check_sight(name: str, policy: ModelClient, shown: str) -> None:
    question = Message.user("What is this?", Image.of(_square()))
    request = {"input": [question.to_item()], "max_output_tokens": 1}
    try:
        await policy.respond(request, CallContext("fit", Deadline(_SECONDS, _SECONDS)))
    except ModelError as error:
        if error.retryable or error.status in (401, 403, 404):
            raise
        raise ModelUnsuitable(
            f"{name}: the model {policy.model} sees no images, and there are some in {shown}. "
            f"Use a vision model; nothing was run\n  {error.message}"
        ) from error


def _square() -> bytes:
    """A grey square as a PNG, large enough for every model's patches."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    lines = (b"\0" + b"\x80" * _SIDE) * _SIDE
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
