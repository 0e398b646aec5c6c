"""Where announced weights lie, as folders that an engine can read."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from kubegym.core.spec.model import Weights
from kubegym.model.weights.errors import WeightsError

FETCH: Final = (sys.executable, "-m", "kubegym.cli.main", "fetch")
"""``kubegym fetch``: in a process of its own, so that no call waits while gigabytes are verified."""
_FETCHED: Final = ("s3", "gs")


class Places:
    """Brings weights to a folder.

    Args:
        folder: where fetched ones go, which the engine sees under the same path; None: nothing can be fetched.
        claims: mounted claims, by name (``pvc://``).
        credentials: a folder with the keys of a Secret, for what is fetched.
        fetch: the command that fetches.
    """

    def __init__(
        self,
        folder: Path | None = None,
        claims: Mapping[str, Path] | None = None,
        credentials: Path | None = None,
        fetch: Sequence[str] = FETCH,
    ) -> None:
        self._folder = folder
        self._claims = dict(claims or {})
        self._credentials = credentials
        self._fetch = tuple(fetch)

    async def place(self, weights: Weights) -> Path:
        """The folder with these weights, fetched if need be.

        Raises:
            WeightsError: "FetchFailed", to be tried again, or a URI that leads nowhere.
        """
        scheme, _, rest = weights.uri.partition("://")
        if scheme == "file":
            return Path(rest)
        if scheme == "pvc":
            return self._claimed(weights.uri, rest)
        if scheme not in _FETCHED:
            why = f"{weights.uri}: weights that are exchanged come from s3://, gs:// or the claim of source (pvc://)"
            raise WeightsError(why, reason="WeightsUnsupported")
        if self._folder is None:
            raise WeightsError(f"{weights.uri}: there is no folder to fetch it into", reason="WeightsUnsupported")
        target = self._folder / hashlib.sha256(f"{weights.version} {weights.uri}".encode()).hexdigest()[:16]
        await self._fetched(weights.uri, target)
        return target

    def keep(self, folders: Collection[Path]) -> None:
        """Delete what was fetched, but for these."""
        if self._folder is None or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.is_dir() and path not in folders:
                shutil.rmtree(path, ignore_errors=True)

    def _claimed(self, uri: str, rest: str) -> Path:
        claim, _, folder = rest.partition("/")
        root = self._claims.get(claim)
        if root is None or ".." in folder.split("/"):
            there = ", ".join(sorted(self._claims)) or "none"
            raise WeightsError(f"{uri}: no such claim is mounted (mounted: {there})", reason="WeightsUnsupported")
        return root / folder.strip("/")

    async def _fetched(self, uri: str, target: Path) -> None:
        words = [*self._fetch, uri, "--into", str(target)]
        if self._credentials is not None:
            words += ["--credentials", str(self._credentials)]
        with tempfile.TemporaryDirectory(prefix="kubegym-") as folder:
            last = Path(folder) / "words"
            process = await asyncio.create_subprocess_exec(
                *words,
                env={**os.environ, "KUBEGYM_TERMINATION_LOG": str(last)},
                stdout=asyncio.subprocess.DEVNULL,
            )
            try:
                code = await process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                raise
            if code:
                raise _failed(uri, code, last)


def _failed(uri: str, code: int, last: Path) -> WeightsError:
    try:
        told = orjson.loads(last.read_bytes())
        reason, message = str(told["reason"]), str(told["message"])
    except (OSError, ValueError, LookupError, TypeError):
        reason, message = "FetchFailed", f"fetching {uri} ended with {code}"
    known = reason if reason in ("WeightsCorrupt", "WeightsNotFound") else "FetchFailed"
    return WeightsError(message, reason=known, retryable=known == "FetchFailed")
