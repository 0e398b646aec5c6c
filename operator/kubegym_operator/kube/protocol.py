"""What the operator asks of an API server.

There is no watch here: kopf watches, and the cache is filled from that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol

Object = dict[str, Any]
"""A Kubernetes object as plain data."""

KindLike = tuple[str, str]
"""``(apiVersion, kind)``; every named tuple of the two will do."""

Labels = Mapping[str, str] | str
"""Labels that must all be there, or a selector in Kubernetes' syntax."""


class Kind(NamedTuple):
    """A kind by ``apiVersion`` and ``kind``."""

    api_version: str
    kind: str


class ObjectKey(NamedTuple):
    """Where an object lies; ``namespace`` is empty for objects of the whole cluster."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.kind} {self.name}"


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """The key of an object."""
    metadata = obj["metadata"]
    return ObjectKey(Kind(obj["apiVersion"], obj["kind"]), metadata.get("namespace") or "", metadata["name"])


class KubeApi(Protocol):
    """The API server. Every call has a deadline; every failure is a ``KubeError`` (``kube/errors.py``)."""

    async def get(self, kind: KindLike, namespace: str | None, name: str) -> Object | None:
        """The object, or None where there is none."""
        ...

    async def list(self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None) -> list[Object]:
        """All objects of a kind, in one namespace or in all of them (None)."""
        ...

    def pages(
        self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None
    ) -> AsyncIterator[tuple[Object, ...]]:
        """The same page by page, for who does not keep them all. Raises Gone where reading took too long."""
        ...

    async def create(self, obj: Object) -> Object:
        """Create it; what the server made of it. Raises AlreadyExists."""
        ...

    async def apply(self, obj: Object, *, manager: str, dry_run: bool = False) -> Object:
        """Server-side apply by force; what the server made of it.

        ``obj`` holds exactly the fields that ``manager`` means to own. A field that it owned and that is left out now
        is removed, or falls back to its default, unless somebody else owns it, too.
        """
        ...

    async def apply_status(self, obj: Object, *, manager: str) -> Object:
        """The same for the ``status`` subresource. Raises NotFound: a status makes no object."""
        ...

    async def patch(self, kind: KindLike, namespace: str | None, name: str, patch: Object) -> Object:
        """JSON merge patch (RFC 7386). With ``metadata.resourceVersion`` in it, only that version (Conflict)."""
        ...

    async def scale(self, kind: KindLike, namespace: str | None, name: str, replicas: int) -> None:
        """Set the replicas by the ``scale`` subresource."""
        ...

    async def delete(self, kind: KindLike, namespace: str | None, name: str, *, uid: str | None = None) -> bool:
        """Delete with background propagation; False where it was gone already.

        Args:
            kind: its kind.
            namespace: its namespace; None for objects of the whole cluster.
            name: its name.
            uid: only the object with this identity; another of that name counts as gone.
        """
        ...

    async def serves(self, kind: KindLike) -> bool:
        """Whether the kind is installed."""
        ...
