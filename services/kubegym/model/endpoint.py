"""Asking an endpoint, before a run starts, whether it is there and serves the model."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson

from kubegym.core.errors import ModelError
from kubegym.core.retry import Backoff
from kubegym.http import Response
from kubegym.model.client import ChatClient
from kubegym.model.errors import ModelNotFound, ModelTimeout, ModelUnauthorized, ModelUnavailable
from kubegym.model.retry import status_error

_SHOWN = 20


async def check_endpoint(
    client: ChatClient,
    *,
    backoff: Backoff = Backoff(attempts=5, base=0.25, maximum=2.0),  # noqa: B008 - frozen
    timeout: float = 10.0,
    rng: random.Random | None = None,
) -> None:
    """Ask for the served models, a few times if need be.

    An endpoint without that route (404, 405), or whose answer we cannot read, passes: the calls will show.

    Args:
        client: the model to check.
        backoff: tries and pauses.
        timeout: seconds for one try.
        rng: for the jitter.

    Raises:
        ModelError: not reachable, key refused, or the model is not among those served, which the message lists.
    """
    rng = rng or random.Random()
    failures = 0
    while True:
        try:
            _judge(await client.get("models", timeout), client)
            return
        except ModelError as error:
            failures += 1
            if not error.retryable or failures >= backoff.attempts:
                raise _explained(error, client) from error
            pause = backoff.delay(failures, rng, error.retry_after)
        await asyncio.sleep(pause)


def _judge(response: Response, client: ChatClient) -> None:
    if response.status in (404, 405):
        return
    if not 200 <= response.status < 300:
        text = response.body[:4096].decode(errors="replace")
        raise status_error(response.status, client.redact(text), f"{client.base_url}/models")
    served = model_names(response.body)
    client.context_tokens = context_window(response.body, client.model)
    client.served = frozenset(served) | {client.model}
    if served and client.model not in served:
        names = ", ".join(sorted(served)[:_SHOWN]) + (
            f" and {len(served) - _SHOWN} more" if len(served) > _SHOWN else ""
        )
        raise ModelNotFound(f"{client.base_url} does not serve the model {client.model!r}; it serves: {names}")


def model_names(body: bytes) -> set[str]:
    """The ids of a model list, aliases included; empty when it is none."""
    return {entry["id"] for entry in _entries(body)}


def context_window(listed: bytes | dict[str, Any], model: str) -> int | None:
    """Tokens of the model's context window, where a model list tells them (vLLM, SGLang and our model server do).

    Args:
        listed: the list, as it came or parsed.
        model: the model's name. One that is not listed is the only one that is: model servers answer to any name.
    """
    entries = _entries(listed)
    named = [entry for entry in entries if entry["id"] == model] or entries
    window = named[0].get("max_model_len") if len(named) == 1 else None
    return window if isinstance(window, int) else None


def _entries(listed: Any) -> list[dict[str, Any]]:
    if isinstance(listed, bytes):
        try:
            listed = orjson.loads(listed)
        except orjson.JSONDecodeError:
            return []
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _explained(error: ModelError, client: ChatClient) -> ModelError:
    """The error with what the user can do about it."""
    if isinstance(error, ModelUnauthorized):
        hint = "the endpoint refuses the API key, or wants one (KUBEGYM_API_KEY, OPENAI_API_KEY or --api-key-file)"
    elif isinstance(error, ModelUnavailable | ModelTimeout):
        hint = f"the model endpoint {client.base_url} does not answer; is it up, and does its URL end in /v1?"
    else:
        return error
    return type(error)(f"{hint}\n  {error.message}", status=error.status)
