"""Names that stand for several servers: a headless Service's, which resolves to the addresses of its pods."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

log = logging.getLogger("kubegym.http")


class Resolver(Protocol):
    """Asks for the addresses of a host."""

    async def addresses(self, host: str, port: int) -> list[str]:
        """IP addresses, in no promised order. Raises OSError."""
        ...


class SystemResolver:
    """The machine's resolver. Of a host with addresses of both families, those of IPv4."""

    async def addresses(self, host: str, port: int) -> list[str]:
        """See ``Resolver``."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        families = {family for family, *_ in found}
        family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
        return sorted({str(address[0]) for kind, _, _, _, address in found if kind == family})


def is_name(url: str) -> bool:
    """Whether a URL's host may stand for several servers: a name, asked without TLS (a certificate is the name's)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def expanded(url: str, resolver: Resolver) -> list[str]:
    """A URL for each address of its host, where there are several; else the URL. Raises OSError."""
    parts = urlsplit(url)
    addresses = await resolver.addresses(parts.hostname or "", parts.port or 80)
    if len(addresses) < 2:
        return [url]
    user, at, _ = parts.netloc.rpartition("@")
    hosts = (f"[{address}]" if ":" in address else address for address in addresses)
    return [parts._replace(netloc=f"{user}{at}{host}:{parts.port or 80}").geturl() for host in hosts]


class Names:
    """The URLs that some base URLs stand for, asked again now and then.

    Args:
        urls: base URLs.
        resolver: who is asked.
    """

    SECONDS = 10.0
    """Between two questions; pods come and go more slowly, and one that is gone shows at the next call to it."""

    def __init__(self, urls: Sequence[str], resolver: Resolver) -> None:
        self._known = {url: [url] for url in urls}
        self._resolver = resolver

    @property
    def any(self) -> bool:
        """Whether there is anything to ask."""
        return any(map(is_name, self._known))

    async def ask(self) -> list[str]:
        """All URLs, now. A name that cannot be resolved keeps the addresses it had."""
        for url in filter(is_name, self._known):
            try:
                self._known[url] = await expanded(url, self._resolver)
            except OSError as error:
                log.warning("%s cannot be resolved: %s", urlsplit(url).hostname, error)
        return [one for urls in self._known.values() for one in urls]
