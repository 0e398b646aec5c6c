"""Objects on web servers, to be read only: ``https://``, and files of the Hugging Face hub by ``hf://``.

By the standard library, which follows redirects, takes query strings (signed links) and keeps to the proxies of the
environment. A token goes to the server that was named, and not to where it redirects.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from kubegym import __version__
from kubegym.core.errors import InvalidSpec, StoreError
from kubegym.core.retry import Backoff
from kubegym.storage.errors import ObjectNotFound, StoreDenied

HUB = "https://huggingface.co"
_BLOCK = 8 << 20
_PARTIAL = 206
_UNSATISFIABLE = 416
_TRANSIENT_4XX = frozenset({408, 425, 429})


def hub_endpoint(given: str | None = None) -> str:
    """The hub's base URL: as given, else ``HF_ENDPOINT`` (a mirror), else the public one."""
    return (given or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def hub_file_url(uri: str, revision: str | None, endpoint: str | None = None) -> str:
    """Where ``hf://datasets/ORG/NAME/PATH`` (or ``hf://ORG/NAME/PATH``, a dataset, too) is downloaded.

    Raises:
        InvalidSpec: no file of a repository is named.
    """
    organisation, _, rest = uri.removeprefix("hf://").removeprefix("datasets/").partition("/")
    name, _, path = rest.partition("/")
    if not organisation or not name or not path:
        raise InvalidSpec(f"{uri} names no file; write hf://datasets/ORGANISATION/NAME/path/rows.jsonl")
    return f"{hub_endpoint(endpoint)}/datasets/{organisation}/{name}/resolve/{quote(revision or 'main')}/{quote(path)}"


class WebClient:
    """Reads from web servers, one request at a time.

    Args:
        token: a bearer token for the server named.
        ca_bundle: PEM file with certificates to trust besides the system's.
        timeout: seconds without a byte after which a request has failed.
        backoff: of trouble that is plainly transient; what has been read is not read again.
        rng: for pauses.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        ca_bundle: Path | None = None,
        timeout: float = 60.0,
        backoff: Backoff = Backoff(attempts=6, base=0.5),  # noqa: B008 - frozen
        rng: random.Random | None = None,
    ) -> None:
        self._token = token
        self._timeout = timeout
        self._backoff = backoff
        self._rng = rng or random.Random()
        context = ssl.create_default_context()
        if ca_bundle is not None:
            context.load_verify_locations(ca_bundle)
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    async def read(self, url: str, headers: dict[str, str] | None = None) -> bytes:
        """A whole small object. Raises as ``blocks``."""
        return b"".join([block async for block in self.blocks(url, headers)])

    async def blocks(self, url: str, headers: dict[str, str] | None = None) -> AsyncIterator[bytes]:
        """An object, in pieces of some megabytes.

        Raises:
            ObjectNotFound: there is none (404, 410).
            StoreDenied: the server wants (other) credentials.
            StoreError: the server does not answer, or something else.
        """
        position = failures = 0
        while True:
            try:
                reply = await asyncio.to_thread(self._open, url, headers or {}, position)
                with contextlib.closing(reply):
                    while block := await asyncio.to_thread(reply.read, _BLOCK):
                        position += len(block)
                        failures = 0
                        yield block
                    if getattr(reply, "length", None):  # the standard library does not tell a body that was cut off
                        raise StoreError(f"{_shown(url)}: the connection was closed before the end")
                return
            except (OSError, http.client.HTTPException, StoreError) as error:
                trouble = _explained(error, url)
                failures += 1
                if position and isinstance(trouble, _Ended):
                    return
                if not trouble.retryable or failures >= self._backoff.attempts:
                    raise trouble from error
            await asyncio.sleep(self._backoff.delay(failures, self._rng))

    def _open(self, url: str, headers: dict[str, str], position: int) -> IO[bytes]:
        request = urllib.request.Request(url, headers={"User-Agent": f"kubegym/{__version__}", **headers})
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        if position:
            request.add_header("Range", f"bytes={position}-")
        reply: Any = self._opener.open(request, timeout=self._timeout)
        if position and reply.status != _PARTIAL:
            reply.close()
            raise StoreError(f"{_shown(url)}: the connection broke, and the server cannot go on in the middle")
        return reply  # type: ignore[no-any-return]


class _Ended(StoreError):
    """Nothing follows what has been read."""


def _explained(error: Exception, url: str) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if not isinstance(error, urllib.error.HTTPError):
        reason = getattr(error, "reason", None) or error
        return StoreError(f"{_shown(url)}: {reason}", retryable=not isinstance(reason, ssl.SSLCertVerificationError))
    status = error.code
    error.close()
    if status in (404, 410):
        return ObjectNotFound(f"{_shown(url)} does not exist ({status})")
    if status in (401, 403):
        return StoreDenied(f"{_shown(url)}: the server wants other credentials ({status})")
    if status == _UNSATISFIABLE:
        return _Ended(f"{_shown(url)} has no such bytes", retryable=False)
    return StoreError(f"{_shown(url)} answered {status}", retryable=status >= 500 or status in _TRANSIENT_4XX)


def _shown(url: str) -> str:
    """The URL without its query, which may be a signature."""
    return url.partition("?")[0]
