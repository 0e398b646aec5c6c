"""Making a canary: the log-probs of fixed texts, as an engine tells that was just started with the weights."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from kubegym.core.errors import InputError, ModelError
from kubegym.http.headers import Pair
from kubegym.model.client import ChatClient
from kubegym.model.upstream import endpoint_client, only_model
from kubegym.model.weights.canary import Canary, Probe
from kubegym.model.weights.engines import ASK_SECONDS, VllmWeights
from kubegym.model.weights.errors import WeightsError

_JSON: Sequence[Pair] = ((b"content-type", b"application/json"),)


async def make_canary(url: str, texts: Sequence[str], tolerance: float) -> Canary:
    """Ask an engine.

    Args:
        url: its root, or its API's.
        texts: what is asked.
        tolerance: mean difference that is allowed later.

    Raises:
        InputError: it does not answer, or tells no log-probs of prompts.
    """
    client = endpoint_client(url, await only_model(url))
    try:
        ids = [await _tokens(client, text) for text in texts]
        told = await VllmWeights(client).ask(ids)
        return Canary.parse(Canary(tuple(map(_probe, ids, told)), tolerance).to_json())
    except (WeightsError, ModelError, ValueError) as error:
        raise InputError(f"{client.base_url}: {error}") from None
    finally:
        await client.close()


def _probe(ids: Sequence[int], log_probs: Sequence[float]) -> Probe:
    return Probe(tuple(ids), tuple(log_probs))


async def _tokens(client: ChatClient, text: str) -> list[int]:
    body = orjson.dumps({"model": client.model, "prompt": text})
    reply = await client.post(client.at("tokenize"), _JSON, body, ASK_SECONDS)
    if reply.status != 200:
        raise InputError(f"{client.base_url}: /tokenize answered {reply.status}")
    return list(orjson.loads(reply.body)["tokens"])
