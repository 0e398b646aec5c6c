"""An object as a set of fields, the way server-side apply sees it.

A field is named by its path. Most lists are one field as a whole; those that Kubernetes declares as maps are entered
item by item, found by their key (``x-kubernetes-list-map-keys``), so that two writers may each own some of the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "claims": ("name",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "environments": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Field name -> keys of the lists that are maps, in the kinds that we write."""

KEY_DEFAULTS: Mapping[str, str] = {"protocol": "TCP"}
"""What a key that an item leaves out means."""


class Item(NamedTuple):
    """An item of a list that is a map: ``((key, value), ...)``."""

    key: tuple[tuple[str, Any], ...]


Step = str | Item
Path = tuple[Step, ...]


def list_keys(kind: str, field: str) -> tuple[str, ...] | None:
    """The keys of a list's items; None where the list is one field as a whole."""
    if field == "ports":
        # The ports of a NetworkPolicy's rule are atomic, those of a Service and of a container are maps.
        return {"NetworkPolicy": None, "Service": ("port", "protocol")}.get(kind, ("containerPort", "protocol"))
    return LIST_KEYS.get(field)


def item_of(item: Any, keys: tuple[str, ...]) -> Item | None:
    """An item's step; None where it lacks a key."""
    if not isinstance(item, dict):
        return None
    values = tuple((key, item.get(key, KEY_DEFAULTS.get(key))) for key in keys)
    return None if any(value is None for _, value in values) else Item(values)


def items_by_key(kind: str, field: str, items: list[Any]) -> dict[Item, Any] | None:
    """The items of a list that is a map, by key; None where it is to be taken as a whole."""
    keys = list_keys(kind, field)
    if keys is None:
        return None
    found = {item_of(item, keys): item for item in items}
    return None if None in found or len(found) < len(items) else {key: item for key, item in found.items() if key}


def leaves(value: Any, kind: str, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The fields of an object with their values. An empty map or list is a field itself."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, kind, (*path, name))
    elif isinstance(value, list) and value and path and isinstance(field := path[-1], str):
        items = items_by_key(kind, field, value)
        if items is None:
            yield path, value
        else:
            for item, inner in items.items():
                yield from leaves(inner, kind, (*path, item))
    else:
        yield path, value


def get_at(obj: Any, path: Path) -> Any:
    """The value of a field; None where it is not there."""
    for step in path:
        obj = _step(obj, step)
        if obj is None:
            return None
    return obj


def set_at(obj: dict[str, Any], path: Path, value: Any) -> None:
    """Set a field, with the maps and list items above it."""
    place: Any = obj
    for position, step in enumerate(path[:-1]):
        inner = _step(place, step)
        if inner is None:
            _put(place, step, [] if isinstance(path[position + 1], Item) else {})
            inner = _step(place, step)
        place = inner
    _put(place, path[-1], value)


def remove_at(obj: dict[str, Any], path: Path) -> None:
    """Remove a field, and what is empty above it. An item's key goes with its last other field."""
    places: list[Any] = [obj]
    for step in path[:-1]:
        inner = _step(places[-1], step)
        if inner is None:
            return
        places.append(inner)
    for depth in range(len(path) - 1, -1, -1):
        place, step = places[depth], path[depth]
        item = path[depth - 1] if depth else None
        keys = {key for key, _ in item.key} if isinstance(item, Item) else set()
        if isinstance(step, Item):
            place[:] = [other for other in place if not _is(other, step)]
        elif step not in keys:
            place.pop(step, None)
        if place and (not keys or set(place) - keys):
            return


def _is(item: Any, step: Item) -> bool:
    return item_of(item, tuple(key for key, _ in step.key)) == step


def _step(place: Any, step: Step) -> Any:
    if isinstance(step, Item):
        return next((item for item in place if _is(item, step)), None) if isinstance(place, list) else None
    return place.get(step) if isinstance(place, dict) else None


def _put(place: Any, step: Step, value: Any) -> None:
    if not isinstance(step, Item):
        place[step] = value
    elif isinstance(value, dict):
        whole = {**dict(step.key), **value}
        position = next((index for index, item in enumerate(place) if _is(item, step)), None)
        if position is None:
            place.append(whole)
        else:
            place[position] = whole


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
