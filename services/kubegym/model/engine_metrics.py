"""Metrics of the engines behind a model server, under vLLM's names, handed on.

An engine beside it listens on loopback only (DESIGN 5, rule 11): what it says goes on as it is. Of several replicas
each series gets a label that tells whose it is, or all are summed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence

from kubegym.http import HttpClient, HttpError, Url

SECONDS = 5.0  # below a scrape's limit; an engine answers at once, or is about to end

log = logging.getLogger("kubegym.model")

_SAMPLE = re.compile(r"^(vllm:[a-zA-Z0-9_:]+)(?:\{(.*)\})? (\S+)$")
_TYPE = re.compile(r"^# TYPE (vllm:[a-zA-Z0-9_:]+) (\w+)$")


class EngineMetrics:
    """``/metrics`` of engines.

    Args:
        base_urls: of their APIs; the metrics lie at the root of their servers.
    """

    def __init__(self, base_urls: Sequence[str]) -> None:
        origins = [Url(url).origin for url in base_urls]
        self._urls = {f"{origin.host}:{origin.port}": Url(f"{origin}/metrics") for origin in origins}
        self._without: set[str] = set()  # an endpoint that has none is not asked at every scrape
        self._alone = len(base_urls) == 1 and only_here(base_urls[0])
        self._http = HttpClient()

    async def read(self, *, summed: bool = False) -> bytes:
        """What they say; nothing of one that does not answer: the model server's own metrics tell that it is down.

        Args:
            summed: over the replicas, instead of each with the label ``replica``.
        """
        asked = [replica for replica in self._urls if replica not in self._without]
        bodies = await asyncio.gather(*map(self._ask, asked))
        if self._alone:
            return b"".join(bodies)
        texts = [body.decode(errors="replace") for body in bodies]
        return (total(texts) if summed else by_replica(zip(asked, texts, strict=True))).encode()

    async def _ask(self, replica: str) -> bytes:
        url = self._urls[replica]
        try:
            response = await self._http.request(b"GET", url, b"", b"", SECONDS)
        except HttpError as error:
            log.debug("no metrics from %s: %s", url.shown, error)
            return b""
        if response.status in (401, 403, 404):
            self._without.add(replica)
        return response.body if response.status == 200 else b""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def by_replica(texts: Iterable[tuple[str, str]]) -> str:
    """VLLM's series of several replicas, each with a label that names it. Pure."""
    families: dict[str, list[str]] = {}
    for replica, text in texts:
        for name, labels, value in _samples(text, families):
            families[name].append(f'{name}{{replica="{replica}"{labels and ","}{labels}}} {value}')
    return _joined(families)


def total(texts: Iterable[str]) -> str:
    """VLLM's series, summed over the replicas; shares (``_perc``) are averaged. Pure."""
    families: dict[str, list[str]] = {}
    sums: dict[tuple[str, str], list[float]] = {}
    for text in texts:
        for name, labels, value in _samples(text, families):
            sums.setdefault((name, labels), []).append(float(value))
    for (name, labels), values in sums.items():
        together = sum(values) / (len(values) if name.endswith("_perc") else 1)
        families[name].append(f"{name}{{{labels}}} {together}")
    return _joined(families)


def _samples(text: str, families: dict[str, list[str]]) -> Iterable[tuple[str, str, str]]:
    """Name, labels and value of each of vLLM's samples; their types go into ``families`` once."""
    for line in text.splitlines():
        if (found := _TYPE.match(line)) is not None:
            families.setdefault(f"# {found[1]}", [line])
        elif (found := _SAMPLE.match(line)) is not None:
            families.setdefault(found[1], [])
            yield found[1], found[2] or "", found[3]


def _joined(families: dict[str, list[str]]) -> str:
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


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
