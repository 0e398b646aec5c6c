"""Whether the models behind a model server answer: asked again and again, so that ``/readyz`` tells the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from kubegym.core.errors import ModelError
from kubegym.core.retry import Backoff
from kubegym.model.client import ChatClient
from kubegym.model.endpoint import check_endpoint
from kubegym.model.engine_client import EngineClient

log = logging.getLogger("kubegym.model")

LOOK_SECONDS = 5.0
"""Between two looks at a model that answers; one that does not is asked every second."""

_ASK_SECONDS = 5.0
_ONCE = Backoff(attempts=1)


class Readiness:
    """Asks for the served models (``/v1/models``) as long as ``watch`` runs.

    Args:
        clients: replicas of the model; an engine in this process always answers.

    Attributes:
        reason: why no call can be answered, or None.
        answered: whether one of the models has ever told what it serves.
    """

    def __init__(self, clients: Sequence[ChatClient | EngineClient]) -> None:
        endpoints = [client for client in clients if isinstance(client, ChatClient)]
        self._endpoints = endpoints if len(endpoints) == len(clients) else []
        self.reason: str | None = None
        self.answered = not self._endpoints
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to ask."""
        if self._endpoints:
            self.reason = "the model has not answered yet"
            self._watching = asyncio.create_task(self._watch(), name="readiness")

    async def stop(self) -> None:
        """Ask no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            answers = await asyncio.gather(*map(_trouble, self._endpoints))
            reason = None if None in answers else answers[0]
            if (reason is None) != (self.reason is None):
                log.info("the model %s", "answers" if reason is None else f"does not answer: {reason}")
            self.reason = reason
            self.answered = self.answered or reason is None
            await asyncio.sleep(LOOK_SECONDS if reason is None else 1.0)


async def _trouble(client: ChatClient) -> str | None:
    try:
        await check_endpoint(client, backoff=_ONCE, timeout=_ASK_SECONDS)
    except ModelError as error:
        return error.message.partition("\n")[0]
    return None
