"""What a reconciliation decided: plain data that the executor carries out and tests compare.

The executor works in the order of the fields: children first, the status after them, events last, so that a status
never promises what the API server refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Object = dict[str, Any]
"""A Kubernetes object as plain data; whoever receives one does not change it."""


class KindName(NamedTuple):
    """A kind by ``apiVersion`` and ``kind``, equal to any tuple of the two."""

    api_version: str
    kind: str


def kind_of(obj: Mapping[str, Any]) -> KindName:
    """The kind that an object says it has."""
    return KindName(obj["apiVersion"], obj["kind"])


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON merge patch of the one field that is ours for a moment: a Job's ``suspend``, its size.

    The object may be gone by then, which is no error.
    """

    kind: KindName
    namespace: str
    name: str
    body: Object


@dataclass(frozen=True, slots=True)
class Scale:
    """Replicas by the ``/scale`` subresource; never in an applied object (DESIGN 5, rule 1)."""

    kind: KindName
    namespace: str
    name: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletion with background propagation of exactly the object that was observed."""

    kind: KindName
    namespace: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A call of a replica's control port. It may be lost: what became of it the replica tells when it is asked again.

    Attributes:
        address: of the pod.
        port: where it listens.
        path: what is called.
        body: its JSON.
        token: that the port asks for.
    """

    address: str
    port: int
    path: str
    body: Object
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Event:
    """An event on the reconciled object; ``reason`` is the condition's."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one reconciliation does. An empty plan writes nothing (DESIGN 3.6).

    Attributes:
        applies: children to apply on the server's side as manager ``kubegym``; only those that differ.
        creates: children made once and never applied, such as Jobs and immutable ConfigMaps, and the first write of a
            Deployment or LeaderWorkerSet, which alone sets ``replicas``; one that exists already is left as it is.
        patches: single fields of children.
        scales: replicas of children, where observed and wanted differ.
        deletes: children to delete.
        orders: calls of replicas' control ports.
        status: the whole new status of the reconciled object; None leaves it.
        events: what to tell after the status is written.
        requeue_after: seconds until the object is looked at again although nothing may have happened.
    """

    applies: tuple[Object, ...] = ()
    creates: tuple[Object, ...] = ()
    patches: tuple[Patch, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletes: tuple[Delete, ...] = ()
    orders: tuple[Order, ...] = ()
    status: Object | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None

    @property
    def writes(self) -> bool:
        """Whether carrying it out writes to the API server."""
        actions = (self.applies, self.creates, self.patches, self.scales, self.deletes, self.events)
        return self.status is not None or any(actions)
