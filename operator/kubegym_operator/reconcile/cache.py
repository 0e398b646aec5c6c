"""What is known of the cluster, filled by the watches and by our own writes.

Objects lie here as JSON: a fifth of the memory of dicts, and every reader has a copy of its own, so that none changes
what another sees. What is older than what is known, or has been deleted, is refused, whoever brings it and when.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from kubegym_operator.kube.protocol import Kind, KindLike, Labels, Object, ObjectKey, key_of
from kubegym_operator.kube.selectors import matches
from kubegym_operator.reconcile.trim import trimmed
from kubegym_operator.reconcile.watched import WATCHED

Index = Callable[[Object], Iterable[Hashable]]
"""The values under which an object is to be found."""

BROKEN = (KeyError, TypeError, AttributeError, ValueError)
"""What reading an object raises that breaks the models, as an older CRD may have admitted it."""

_GRAVES = 20_000
"""How many identities of deleted objects are remembered; a late list must not bring them back."""

_OWNER = "owner"
_LABEL = "label"
_LABELS_INDEXED = ("app.kubernetes.io/instance", "batch.kubernetes.io/job-name")
_PREFIX_INDEXED = "kubegym.dev/"


class Change(NamedTuple):
    """What a listener is told: an object as it is kept, whether it is gone, and whether we only wrote its status."""

    key: ObjectKey
    obj: Object
    gone: bool
    own: bool


class _Entry(NamedTuple):
    version: int
    uid: str
    data: bytes
    indexed: tuple[tuple[str, Hashable], ...]


class Cache:
    """The objects that are watched.

    Args:
        indices: further ways to find objects, by name; see ``find``.
        kinds: what may lie here: the kinds that somebody keeps up to date.
        revision: see ``trim.trimmed``.
    """

    def __init__(
        self,
        indices: Mapping[str, Index] | None = None,
        kinds: Collection[Kind] = WATCHED,
        revision: str | None = None,
    ) -> None:
        self._kinds = kinds
        self._revision = revision
        self._indices = {_OWNER: _owner_uids, _LABEL: _label_values, **(indices or {})}
        self._entries: dict[ObjectKey, _Entry] = {}
        self._places: dict[Kind, dict[str, set[ObjectKey]]] = defaultdict(lambda: defaultdict(set))
        self._found: dict[tuple[str, Hashable], set[ObjectKey]] = defaultdict(set)
        self._graves: OrderedDict[str, int] = OrderedDict()
        self._listeners: list[Callable[[Change], None]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Tell somebody of every change, whoever brings it, as soon as it can be read here."""
        self._listeners.append(listener)

    def get(self, kind: KindLike, namespace: str, name: str) -> Object | None:
        """The object, or None. The copy is the caller's."""
        entry = self._entries.get(ObjectKey(Kind(*kind), namespace, name))
        return None if entry is None else orjson.loads(entry.data)

    def list(
        self,
        kind: KindLike,
        namespace: str | None = None,
        *,
        owner_uid: str | None = None,
        labels: Labels | None = None,
    ) -> list[Object]:
        """The objects of a kind that meet all of the conditions, by namespace and name.

        Args:
            kind: their kind.
            namespace: None means all.
            owner_uid: an owner of theirs.
            labels: labels they carry, or a selector.
        """
        keys = self._candidates(Kind(*kind), namespace, owner_uid, labels)
        found = [orjson.loads(self._entries[key].data) for key in sorted(keys)]
        if labels is None:
            return found
        return [obj for obj in found if matches(labels, obj["metadata"].get("labels") or {})]

    def find(self, index: str, value: Hashable) -> tuple[ObjectKey, ...]:
        """The keys of the objects that an index gives this value."""
        return tuple(sorted(self._found.get((index, value), ())))

    def keys(self, kind: KindLike) -> set[ObjectKey]:
        """The keys of all objects of a kind."""
        return {key for keys in self._places[Kind(*kind)].values() for key in keys}

    def count(self, kind: KindLike) -> int:
        """How many objects of a kind there are."""
        return sum(len(keys) for keys in self._places[Kind(*kind)].values())

    def version(self, key: ObjectKey) -> tuple[str, int] | None:
        """Identity and resource version of an object, without reading it."""
        entry = self._entries.get(key)
        return None if entry is None else (entry.uid, entry.version)

    def knows(self, obj: Object) -> bool:
        """Whether an object is here in this version or a newer one. May be asked from another thread."""
        entry = self._entries.get(key_of(obj))
        return entry is not None and entry.version >= int(obj["metadata"].get("resourceVersion") or 0)

    def put(self, obj: Object, *, own: bool = False) -> bool:
        """Keep an object; False where it is not newer than what is known, or of a kind that nobody watches.

        ``own``: only our own write of its status brings it, which is no news to whoever wrote it; unless the answer
        shows what somebody else wrote meanwhile, since the watch's own words of that come too late to be heard.
        """
        key, metadata = key_of(obj), obj["metadata"]
        if key.kind not in self._kinds:
            return False
        uid, version = metadata.get("uid", ""), int(metadata.get("resourceVersion") or 0)
        known = self._entries.get(key)
        if self._graves.get(uid, -1) >= version or (known is not None and known.version >= version):
            return False
        small = trimmed(obj, self._revision)
        own = own and known is not None and _differs_in_status_only(orjson.loads(known.data), small)
        if known is not None:
            self._forget(key, known)
        indexed = tuple((name, value) for name, index in self._indices.items() for value in _values(index, small))
        # orjson leaves its bytes in the buffer that it grew, four times as large: a copy has its own size.
        data = memoryview(orjson.dumps(small)).tobytes()
        self._entries[key] = _Entry(version, uid, data, indexed)
        self._places[key.kind][key.namespace].add(key)
        for place in indexed:
            self._found[place].add(key)
        self._tell(Change(key, small, False, own))
        return True

    def remove(self, obj: Object) -> bool:
        """Forget an object; False where it was not known. Another one of its name stays, older news of it is refused.

        It may come back with a newer version: whose label is put back enters the watch again.
        """
        key, uid = key_of(obj), obj["metadata"].get("uid", "")
        if uid:
            self._graves[uid] = int(obj["metadata"].get("resourceVersion") or 0)
            if len(self._graves) > _GRAVES:
                self._graves.popitem(last=False)
        known = self._entries.get(key)
        if known is None or (uid and known.uid != uid):
            return False
        self._forget(key, known)
        self._tell(Change(key, orjson.loads(known.data), True, False))
        return True

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)

    def _forget(self, key: ObjectKey, entry: _Entry) -> None:
        del self._entries[key]
        self._places[key.kind][key.namespace].discard(key)
        for place in entry.indexed:
            keys = self._found[place]
            keys.discard(key)
            if not keys:
                del self._found[place]

    def _candidates(
        self, kind: Kind, namespace: str | None, owner_uid: str | None, labels: Labels | None
    ) -> set[ObjectKey]:
        """The smallest set that an index has to offer, reduced to kind and namespace."""
        places = [(_OWNER, owner_uid)] if owner_uid is not None else []
        if isinstance(labels, Mapping):
            places += [(_LABEL, pair) for pair in labels.items() if _is_indexed(pair[0])]  # type: ignore[misc]
        if not places:
            spaces = self._places[kind]
            return self.keys(kind) if namespace is None else set(spaces[namespace]) if namespace in spaces else set()
        sets: list[set[ObjectKey]] = [self._found.get(place, set()) for place in places]
        keys = set.intersection(*sets)
        return {key for key in keys if key.kind == kind and namespace in (None, key.namespace)}


def _differs_in_status_only(before: Object, after: Object) -> bool:
    return _without_status(before) == _without_status(after)


def _without_status(obj: Object) -> Object:
    metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
    return {**obj, "metadata": metadata, "status": None}


def _values(index: Index, obj: Object) -> tuple[Hashable, ...]:
    try:
        return tuple(index(obj))
    except BROKEN:  # it refers to nothing; its own reconciliation says what is wrong with it
        return ()


def _owner_uids(obj: Object) -> Iterable[Hashable]:
    return [owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ()]


def _label_values(obj: Object) -> Iterable[Hashable]:
    labels: dict[str, Any] = obj["metadata"].get("labels") or {}
    return [pair for pair in labels.items() if _is_indexed(pair[0])]


def _is_indexed(label: str) -> bool:
    return label in _LABELS_INDEXED or label.startswith(_PREFIX_INDEXED)
