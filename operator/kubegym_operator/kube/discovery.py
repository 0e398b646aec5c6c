"""How the API server calls a kind: asked once, remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from kubegym_operator.kube.errors import KindNotServed, NotFound
from kubegym_operator.kube.protocol import Kind, KindLike

ABSENT_SECONDS = 30.0
"""How long a kind that is not installed counts as such before the server is asked again."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind's place in the API."""

    kind: Kind
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL's path of an object, of a collection (no name), or of a collection in all namespaces (neither)."""
        version = self.kind.api_version
        parts = ["/apis" if "/" in version else "/api", version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)


class Discovery:
    """Remembers what the server serves.

    Args:
        fetch: gets a path as JSON. Raises NotFound for a group or version that is not served.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Any]]) -> None:
        self._fetch = fetch
        self._resources: dict[Kind, Resource] = {}
        self._asked: dict[str, float] = {}
        self._lock = asyncio.Lock()

    async def resource(self, kind: KindLike) -> Resource:
        """The kind's place. Raises KindNotServed."""
        kind = Kind(*kind)
        if kind not in self._resources:
            async with self._lock:
                if kind not in self._resources:
                    await self._ask(kind.api_version)
        if kind not in self._resources:
            raise KindNotServed(f"{kind.api_version} {kind.kind} is not installed", status=404)
        return self._resources[kind]

    def forget(self, kind: KindLike) -> None:
        """Ask again: the server said 404 to what it should have known."""
        self._resources.pop(Kind(*kind), None)

    async def _ask(self, version: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._asked.get(version, -ABSENT_SECONDS) < ABSENT_SECONDS:
            return
        try:
            answer = await self._fetch(f"/apis/{version}" if "/" in version else f"/api/{version}")
        except NotFound:
            answer = {}
        self._asked[version] = now
        for one in answer.get("resources") or ():
            if "/" not in one["name"]:
                kind = Kind(version, one["kind"])
                self._resources[kind] = Resource(kind, one["name"], one["namespaced"])
