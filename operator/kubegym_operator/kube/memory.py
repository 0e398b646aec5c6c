"""The API server's twin in this process: what the operator relies on, and faults on demand.

It keeps the promises that reconciliation depends on, and passes the contract suite of the real server: server-side
apply with field managers (a field that its only owner leaves out falls back to its default), resource versions and
generations, the subresources ``status`` and ``scale``, deletion with finalizers and by owner references, merge patches
that mean one version. A write that changes nothing makes no new version. It runs no controllers and validates little.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from kubegym_operator.kube import fields
from kubegym_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    KindNotServed,
    KubeError,
    NotFound,
    Unavailable,
)
from kubegym_operator.kube.kinds import BUILT_IN, KindInfo
from kubegym_operator.kube.protocol import Kind, KindLike, Labels, Object, ObjectKey, key_of
from kubegym_operator.kube.selectors import matches

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
T = TypeVar("T")
Watcher = Callable[[EventType, Object], None]

_IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
_SERVER_OWNED = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields")
_KEPT = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
_PAGE = 100
_CREATED = "2026-01-01T00:00:00Z"


class Write(NamedTuple):
    """A request that writes, whether it changed something or not."""

    verb: str
    key: ObjectKey


@dataclass
class _Fault:
    error: KubeError
    verb: str | None
    kind: str | None
    times: int
    after: bool


@dataclass
class _Stored:
    obj: Object
    owners: dict[str, set[fields.Path]] = field(default_factory=dict)


class MemoryKube:
    """An API server in memory.

    Args:
        installed: kinds beside those of Kubernetes, as CRDs would bring them.

    Attributes:
        writes: every writing request so far.
        down: while True nothing is answered (Unavailable).
        latency: seconds that each request takes.
    """

    def __init__(self, installed: Iterable[KindInfo] = ()) -> None:
        self.writes: list[Write] = []
        self.down = False
        self.latency = 0.0
        self._kinds = {info.kind: info for info in (*BUILT_IN, *installed)}
        self._objects: dict[ObjectKey, _Stored] = {}
        self._version = 0
        self._faults: list[_Fault] = []
        self._watchers: list[Watcher] = []

    # What tests do with it

    def install(self, *kinds: KindInfo) -> None:
        """Serve more kinds, as if their CRDs had been installed."""
        self._kinds.update({info.kind: info for info in kinds})

    def uninstall(self, kind: KindLike) -> None:
        """Stop serving a kind."""
        self._kinds.pop(Kind(*kind), None)

    def fail(
        self, error: KubeError, *, verb: str | None = None, kind: str | None = None, times: int = 1, after: bool = False
    ) -> None:
        """Let the next requests fail.

        Args:
            error: what they raise.
            verb: only of this method, such as ``apply``.
            kind: only about this kind, such as ``Job``.
            times: how many.
            after: the request is carried out, only its answer is lost.
        """
        self._faults.append(_Fault(error, verb, kind, times, after))

    def heal(self) -> None:
        """Forget the failures that have not happened yet."""
        self._faults.clear()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell somebody of every change, with a copy of the object; returns what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def managers(self, kind: KindLike, namespace: str | None, name: str, path: fields.Path) -> set[str]:
        """Who owns a field."""
        stored = self._objects[ObjectKey(Kind(*kind), namespace or "", name)]
        return {owner.split()[0] for owner, owned in stored.owners.items() if path in owned}

    # KubeApi

    async def get(self, kind: KindLike, namespace: str | None, name: str) -> Object | None:
        """See KubeApi."""
        key = ObjectKey(Kind(*kind), namespace or "", name)
        async with _Request(self, "get", key):
            stored = self._objects.get(key)
            return None if stored is None else _copied(stored.obj)

    async def list(self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None) -> list[Object]:
        """See KubeApi."""
        async with _Request(self, "list", ObjectKey(Kind(*kind), namespace or "", "")):
            return [
                _copied(stored.obj)
                for key, stored in sorted(self._objects.items())
                if key.kind == kind
                and namespace in (None, key.namespace)
                and (labels is None or matches(labels, stored.obj["metadata"].get("labels") or {}))
            ]

    async def pages(
        self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None
    ) -> AsyncIterator[tuple[Object, ...]]:
        """See KubeApi."""
        found = await self.list(kind, namespace, labels=labels)
        for start in range(0, len(found), _PAGE):
            yield tuple(found[start : start + _PAGE])

    async def create(self, obj: Object) -> Object:
        """See KubeApi."""
        key = key_of(obj)
        async with _Request(self, "create", key):
            if key in self._objects:
                raise AlreadyExists(f"{key} already exists", status=409)
            return self._add(obj, manager="create")

    async def apply(self, obj: Object, *, manager: str, dry_run: bool = False) -> Object:
        """See KubeApi."""
        key = key_of(obj)
        async with _Request(self, "apply", key, writes=not dry_run):
            stored = self._objects.get(key)
            if stored is not None:
                self._same(stored, obj)
                return self._apply(stored, obj, manager, subresource="", dry_run=dry_run)
            return self._add(obj, manager=manager, applied=True, dry_run=dry_run)

    async def apply_status(self, obj: Object, *, manager: str) -> Object:
        """See KubeApi."""
        key = key_of(obj)
        async with _Request(self, "apply_status", key):
            stored = self._stored(key)
            if not self._kinds[key.kind].status:
                raise NotFound(f"{key.kind.kind} has no status", status=404)
            return self._apply(stored, {**obj, "metadata": {}}, manager, subresource="status")

    async def patch(self, kind: KindLike, namespace: str | None, name: str, patch: Object) -> Object:
        """See KubeApi."""
        key = ObjectKey(Kind(*kind), namespace or "", name)
        async with _Request(self, "patch", key):
            stored = self._stored(key)
            self._same(stored, patch)
            if self._kinds[key.kind].status:
                patch = {name: value for name, value in patch.items() if name != "status"}
            return self._update(stored, fields.merge_patch(stored.obj, patch), manager="patch")

    async def scale(self, kind: KindLike, namespace: str | None, name: str, replicas: int) -> None:
        """See KubeApi."""
        key = ObjectKey(Kind(*kind), namespace or "", name)
        async with _Request(self, "scale", key):
            stored = self._stored(key)
            path = self._kinds[key.kind].replicas
            if path is None:
                raise NotFound(f"{key.kind.kind} has no scale", status=404)
            changed = _copied(stored.obj)
            fields.set_at(changed, path, replicas)
            self._update(stored, changed, manager="scale")

    async def delete(self, kind: KindLike, namespace: str | None, name: str, *, uid: str | None = None) -> bool:
        """See KubeApi."""
        key = ObjectKey(Kind(*kind), namespace or "", name)
        async with _Request(self, "delete", key):
            stored = self._objects.get(key)
            if stored is None or uid not in (None, stored.obj["metadata"]["uid"]):
                return False
            if stored.obj["metadata"].get("finalizers"):
                changed = _copied(stored.obj)
                changed["metadata"].setdefault("deletionTimestamp", _CREATED)
                self._update(stored, changed, manager="delete")
            else:
                self._remove(key)
            return True

    async def serves(self, kind: KindLike) -> bool:
        """See KubeApi."""
        async with _Request(self, "serves", ObjectKey(Kind(*kind), "", ""), known=True):
            return Kind(*kind) in self._kinds

    # How it works

    def _stored(self, key: ObjectKey) -> _Stored:
        stored = self._objects.get(key)
        if stored is None:
            raise NotFound(f"{key} not found", status=404)
        return stored

    @staticmethod
    def _same(stored: _Stored, request: Object) -> None:
        """Raises Conflict where a request means another version."""
        wanted = (request.get("metadata") or {}).get("resourceVersion")
        if wanted not in (None, stored.obj["metadata"]["resourceVersion"]):
            raise Conflict(f"{key_of(stored.obj)} has been modified", status=409)

    def _add(self, obj: Object, *, manager: str, applied: bool = False, dry_run: bool = False) -> Object:
        key, info = key_of(obj), self._kinds[Kind(obj["apiVersion"], obj["kind"])]
        if info.namespaced and not key.namespace:
            raise Invalid(f"{key}: an empty namespace may not be set", status=400)
        new = _copied(obj)
        if info.status:
            new.pop("status", None)
            if info.initial_status is not None:
                new["status"] = dict(info.initial_status)
        stored = _Stored({})
        stored.owners[f"{manager} Apply" if applied else f"{manager} Update"] = self._fields(new)
        for name in _SERVER_OWNED:
            new["metadata"].pop(name, None)
        new["metadata"].update(uid=str(uuid.uuid4()), creationTimestamp=_CREATED, generation=1)
        stored.obj = self._defaulted(new)
        self._version += 1
        stored.obj["metadata"].update(resourceVersion=str(self._version), managedFields=_managed(stored.owners))
        if not dry_run:
            self._objects[key] = stored
            self._tell("ADDED", stored.obj)
            self._collect(stored.obj)
        return _copied(stored.obj)

    def _apply(self, stored: _Stored, obj: Object, manager: str, *, subresource: str, dry_run: bool = False) -> Object:
        owner = f"{manager} Apply {subresource}".rstrip()
        part = {"status": obj["status"]} if subresource else self._without_status(obj)
        wanted = {path: value for path, value in fields.leaves(part, stored.obj["kind"]) if self._may_own(path)}
        changed = _copied(stored.obj)
        owners = {name: set(owned) for name, owned in stored.owners.items()}
        for path in owners.get(owner, set()) - set(wanted):
            if not any(path in owned for name, owned in owners.items() if name != owner):
                fields.remove_at(changed, path)
        for path, value in wanted.items():
            if fields.get_at(changed, path) != value:
                fields.set_at(changed, path, _copied(value))
                for owned in owners.values():
                    owned.discard(path)
        owners[owner] = set(wanted)
        if dry_run:
            return self._defaulted(changed)
        stored.owners = owners
        return self._store(stored, changed)

    def _update(self, stored: _Stored, changed: Object, *, manager: str) -> Object:
        """Store a change made otherwise than by apply; whoever changes a field owns it."""
        changed = _copied(changed)
        kind = stored.obj["kind"]
        before, after = dict(fields.leaves(stored.obj, kind)), dict(fields.leaves(changed, kind))
        touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        for owned in stored.owners.values():
            owned -= touched
        stored.owners.setdefault(f"{manager} Update", set()).update(
            path for path in touched if path in after and self._may_own(path)
        )
        return self._store(stored, changed)

    def _store(self, stored: _Stored, changed: Object) -> Object:
        changed = self._defaulted(changed)
        metadata = changed["metadata"]
        for name in _KEPT:
            metadata[name] = stored.obj["metadata"][name]
        metadata["managedFields"] = _managed(stored.owners)
        if changed == stored.obj:
            return _copied(stored.obj)
        if self._contents(changed) != self._contents(stored.obj):
            metadata["generation"] += 1
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        stored.obj = changed
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._remove(key_of(changed))
        else:
            self._tell("MODIFIED", changed)
        return _copied(changed)

    def _remove(self, key: ObjectKey) -> None:
        """Remove an object, and what nobody owns after that."""
        stored = self._objects.pop(key)
        self._version += 1
        stored.obj["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", stored.obj)
        uid = stored.obj["metadata"]["uid"]
        for child in list(self._objects.values()):
            if any(owner["uid"] == uid for owner in child.obj["metadata"].get("ownerReferences") or ()):
                self._collect(child.obj)

    def _collect(self, obj: Object) -> None:
        """Remove an object whose owners are all gone, as the garbage collector does."""
        owners = obj["metadata"].get("ownerReferences")
        living = {stored.obj["metadata"]["uid"] for stored in self._objects.values()}
        key = key_of(obj)
        if owners and key in self._objects and not any(owner["uid"] in living for owner in owners):
            self._remove(key)

    def _tell(self, event: EventType, obj: Object) -> None:
        for watcher in list(self._watchers):
            watcher(event, _copied(obj))

    def _defaulted(self, obj: Object) -> Object:
        for path, value in self._kinds[Kind(obj["apiVersion"], obj["kind"])].defaults.items():
            if fields.get_at(obj, path) is None:
                fields.set_at(obj, path, _copied(value))
        return obj

    def _fields(self, obj: Object) -> set[fields.Path]:
        return {path for path, _ in fields.leaves(obj, obj["kind"]) if self._may_own(path) and path[0] != "status"}

    def _without_status(self, obj: Object) -> Object:
        info = self._kinds[Kind(obj["apiVersion"], obj["kind"])]
        return {name: value for name, value in obj.items() if name != "status" or not info.status}

    @staticmethod
    def _may_own(path: fields.Path) -> bool:
        return path not in _IDENTITY and path[:2] not in {("metadata", name) for name in _SERVER_OWNED}

    @staticmethod
    def _contents(obj: Object) -> dict[str, Any]:
        return {name: value for name, value in obj.items() if name not in ("metadata", "status")}


def _managed(owners: dict[str, set[fields.Path]]) -> list[Object]:
    """``metadata.managedFields``."""
    entries: list[Object] = []
    for owner, owned in sorted(owners.items()):
        manager, operation, *subresource = owner.split()
        tree: Object = {}
        for path in sorted(owned, key=str):
            place = tree
            for step in path:
                name = f"f:{step}" if isinstance(step, str) else "k:" + json.dumps(dict(step.key))
                place = place.setdefault(name, {})
        if tree:
            entry = {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": tree}
            entries.append({**entry, **({"subresource": subresource[0]} if subresource else {})})
    return entries


def _copied(value: T) -> T:
    """A copy of JSON data, as it would come over a wire; several times as fast as ``copy.deepcopy``."""
    copied: T = orjson.loads(orjson.dumps(value, default=dict))
    return copied


class _Request:
    """One request: latency, faults, and whether the kind is served."""

    def __init__(
        self, kube: MemoryKube, verb: str, key: ObjectKey, *, writes: bool | None = None, known: bool = False
    ) -> None:
        self._kube = kube
        self._verb = verb
        self._key = key
        self._writes = verb not in ("get", "list", "serves") if writes is None else writes
        self._known = known
        self._late: KubeError | None = None

    async def __aenter__(self) -> None:
        kube = self._kube
        await asyncio.sleep(kube.latency)
        if self._writes:
            kube.writes.append(Write(self._verb, self._key))
        if kube.down:
            raise Unavailable("the API server is away")
        fault = self._fault()
        if fault is not None and not fault.after:
            raise fault.error
        if not self._known and self._key.kind not in kube._kinds:
            raise KindNotServed(f"{self._key.kind.api_version} {self._key.kind.kind} is not installed", status=404)
        self._late = fault.error if fault is not None else None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None and self._late is not None:
            raise self._late

    def _fault(self) -> _Fault | None:
        for fault in self._kube._faults:
            if fault.verb in (None, self._verb) and fault.kind in (None, self._key.kind.kind):
                fault.times -= 1
                if fault.times == 0:
                    self._kube._faults.remove(fault)
                return fault
        return None
