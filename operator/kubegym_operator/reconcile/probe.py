"""Asking pods: whether a server serves, and how a run goes. Pod addresses only, short and small answers (rule 9).

The loop of a real network lives here behind two protocols; tests answer in its place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import aiohttp

from kubegym_operator.build.endpoints import WORKER_PORT
from kubegym_operator.plan.actions import Order
from kubegym_operator.plan.snapshot import Answer, Progress, Question, Told

log = logging.getLogger("kubegym.operator")

PROBE_SECONDS: Final = 5.0
"""For one address; a server that is about to serve answers in less."""

PROGRESS_SECONDS: Final = 2.0
AT_ONCE: Final = 32
"""Replicas that are asked at a time."""
MOST_BYTES: Final = 16 * 1024
MOST_ASKED: Final = 3
"""Addresses that are tried, one after the other."""


class Prober(Protocol):
    """Asks whether a part serves."""

    async def ask(self, question: Question) -> Answer:
        """The answer of the first address that gives a good one, else the last bad one. Never raises."""
        ...

    async def tell(self, question: Question) -> dict[str, Told]:
        """What each address says of its weights, ready or not; of those that say nothing, nothing. Never raises."""
        ...


class ProgressReader(Protocol):
    """Asks one worker about the whole run."""

    async def read(self, addresses: Sequence[str]) -> Progress | None:
        """What the first worker that answers says; None when none does. Never raises."""
        ...


class HttpProber:
    """Asks over HTTP.

    Args:
        session: without proxies: pods are reached directly.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, question: Question) -> Answer:
        """The answer of the first address that gives a good one, else the last bad one."""
        answer = Answer(False, "none of its pods has an address")
        for address in question.addresses[:MOST_ASKED]:
            url = f"http://{_host(address)}:{question.port}{question.path}"
            try:
                status, body = await _fetch(self._session, url, PROBE_SECONDS)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                answer = Answer(False, f"GET {url}: {str(error) or type(error).__name__}")
                continue
            if status == 200:
                return _told(body)
            answer = Answer(False, f"GET {url}: HTTP {status} {body[:200].decode(errors='replace')}".strip())
        return answer

    async def tell(self, question: Question) -> dict[str, Told]:
        """What each address says of its weights, ready or not."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(address: str) -> Told | None:
            url = f"http://{_host(address)}:{question.port}{question.path}"
            async with gate:
                with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
                    return Told.from_json(json.loads((await _fetch(self._session, url, PROBE_SECONDS))[1]))
            return None

        told = await asyncio.gather(*map(one, question.addresses))
        return {address: said for address, said in zip(question.addresses, told, strict=True) if said is not None}


class HttpControl:
    """Gives orders over HTTP.

    Args:
        session: without proxies.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def give(self, order: Order) -> None:
        """Call a control port. Never raises: what became of it shows when the replica is asked again."""
        url = f"http://{_host(order.address)}:{order.port}{order.path}"
        headers = {"authorization": f"Bearer {order.token}"}
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        try:
            async with self._session.post(
                url, json=order.body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:  # 401: the pod does not know the token of this process yet
                    log.info("POST %s: HTTP %d %s", url, response.status, (await response.text())[:200])
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            log.info("POST %s: %s", url, str(error) or type(error).__name__)


class HttpProgressReader:
    """Asks over HTTP.

    Args:
        session: without proxies.
        port: where workers listen.
    """

    def __init__(self, session: aiohttp.ClientSession, port: int = WORKER_PORT) -> None:
        self._session = session
        self._port = port

    async def read(self, addresses: Sequence[str]) -> Progress | None:
        """What the first worker that answers says; None when none does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PROGRESS_SECONDS * MOST_ASKED):
                for address in addresses[:MOST_ASKED]:
                    url = f"http://{_host(address)}:{self._port}/progress?scope=run"
                    with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
                        status, body = await _fetch(self._session, url, PROGRESS_SECONDS)
                        told = json.loads(body) if status == 200 else None
                        if isinstance(told, dict):
                            return Progress.from_json(told)
        return None


async def _fetch(session: aiohttp.ClientSession, url: str, seconds: float) -> tuple[int, bytes]:
    """Status and body, of at most 16 KiB. Redirects are not followed: they would lead away from the pod."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with session.get(url, timeout=timeout, allow_redirects=False) as response:
        body = b""
        async for chunk in response.content.iter_chunked(MOST_BYTES):
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"{url} answers with more than {MOST_BYTES} bytes")
        return response.status, body


def _told(body: bytes) -> Answer:
    """A good answer, with what a model server says about itself."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return Answer(True)
    if not isinstance(said, Mapping):
        return Answer(True)
    version, last = said.get("policyVersion"), said.get("lastRequestTime")
    return Answer(
        True,
        policy_version=version if isinstance(version, int) and not isinstance(version, bool) else None,
        last_request=float(last) if isinstance(last, int | float) and not isinstance(last, bool) else None,
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
