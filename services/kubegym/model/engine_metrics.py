"""Metrics of an engine that listens on loopback only: the model server beside it hands them on (DESIGN 5, rule 11)."""

from __future__ import annotations

import ipaddress
import logging
import re

from kubegym.http import HttpClient, HttpError, Url

SECONDS = 5.0  # below a scrape's limit; an engine answers at once, or is about to end

log = logging.getLogger("kubegym.model")


class EngineMetrics:
    """``/metrics`` of an engine.

    Args:
        base_url: of its API; the metrics lie at the root of its server.
    """

    def __init__(self, base_url: str) -> None:
        self._url = Url(f"{Url(base_url).origin}/metrics")
        self._http = HttpClient()

    async def read(self) -> bytes:
        """What it says; nothing where it does not answer: the model server's own metrics tell that it is down."""
        try:
            response = await self._http.request(b"GET", self._url, b"", b"", SECONDS)
        except HttpError as error:
            log.debug("no metrics from %s: %s", self._url.shown, error)
            return b""
        return response.body if response.status == 200 else b""

    async def close(self) -> None:
        """Close the connection."""
        await self._http.close()


_PROGRESS = re.compile(
    rb"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_sum)(?:\{[^}\n]*\})? (\S+)", re.M
)


def tokens_so_far(metrics: bytes) -> float | None:
    """What moves while an engine works, of vLLM's metrics; None where there is nothing of the kind."""
    found = _PROGRESS.findall(metrics)
    return sum(map(float, found)) if found else None


def only_here(url: str) -> bool:
    """Whether nobody but this machine, or this pod, reaches a URL."""
    host = Url(url).origin.host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
