"""Asking pods: whether a server serves, and how a run goes. Pod addresses only, short and small answers (rule 9).

The loop of a real network lives here behind two protocols; tests answer in its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import aiohttp

from kubegym_operator.build.endpoints import WORKER_PORT
from kubegym_operator.plan.snapshot import Answer, Progress, Question

PROBE_SECONDS: Final = 5.0
"""For one address; a server that is about to serve answers in less."""

PROGRESS_SECONDS: Final = 2.0
MOST_BYTES: Final = 16 * 1024
MOST_ASKED: Final = 3
"""Addresses that are tried, one after the other."""


class Prober(Protocol):
    """Asks whether a part serves."""

    async def ask(self, question: Question) -> Answer:
        """The answer of the first address that gives a good one, else the last bad one. Never raises."""
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
