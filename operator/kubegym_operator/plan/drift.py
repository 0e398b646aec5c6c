"""Whether an object that lies in the cluster still says what was applied.

The API server adds defaults and others add fields, so the question is not equality but whether all that is desired is
still there. What differs only in spelling is the same: ``1000m`` and ``1``, an empty map and none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from kubegym_operator.build.labels import APPLIED_HASH
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import annotations_of

_ITEM_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "claims": ("name",),
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""What tells the items of a pod template's lists apart that Kubernetes merges (``x-kubernetes-list-map-keys``).

Others may add items to these. Any other list is one field: it is compared whole.
"""

_OWNERS: Final[Mapping[str, tuple[str, ...]]] = {"ownerReferences": ("uid",)}

_MERGED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "Deployment": {**_OWNERS, **_ITEM_KEYS},
    "LeaderWorkerSet": {**_OWNERS, **_ITEM_KEYS},
    "ModelServer": {**_OWNERS, "resourceClaims": ("name",)},
    "Service": {**_OWNERS, "ports": ("port", "protocol")},
}
"""The lists that Kubernetes merges, by kind; of a kind that is not named here only its owners.

A ModelServer's ``podTemplate`` has no schema, so that all lists in it are whole.
"""

_KEY_DEFAULTS: Final[Mapping[str, str]] = {"protocol": "TCP"}
"""What a key that an item leaves out means."""

_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


def differs(desired: Object, observed: Object) -> bool:
    """Whether applying ``desired`` would change what is observed: it was edited, or something else is desired now."""
    before = annotations_of(observed).get(APPLIED_HASH)
    return annotations_of(desired).get(APPLIED_HASH) != before or not _holds(desired, observed, desired["kind"])


def taken_over(applied: Object, managed: Sequence[Mapping[str, Any]], manager: str) -> bool:
    """Whether somebody else has set a field that was applied, by who owns what (``metadata.managedFields``).

    It tells what values alone cannot: a key added to a selector, a peer to a rule. Those fields are atomic, whoever
    edits a part of one owns all of it, and what the API server adds to them by default belongs to nobody.

    Args:
        applied: what was applied.
        managed: ``metadata.managedFields`` of the object as it is.
        manager: by whom it was applied.
    """
    mine: Mapping[str, Any] = {}
    others = []
    for entry in managed:
        fields = entry.get("fieldsV1") or {}
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            mine = fields
        elif entry.get("subresource") != "status":
            others.append(fields)
    return any(_takes(theirs, mine, applied) for theirs in others)


def _takes(theirs: Mapping[str, Any], mine: Mapping[str, Any], applied: Any) -> bool:
    """Whether a set of fields has one that was applied and is not in ``mine`` any more."""
    for step, below in theirs.items():
        value = _at(applied, step)
        if value is None or (not below and step in mine):
            continue
        if not below or _takes(below, mine.get(step, {}), value):
            return True
    return False


def _at(value: Any, step: str) -> Any:
    """What lies one step of a ``fieldsV1`` path further: ``f:<field>``, or ``k:<keys>`` of a merged list's item."""
    sort, _, name = step.partition(":")
    if sort == "f" and isinstance(value, dict):
        return value.get(name)
    if sort == "k" and isinstance(value, list | tuple):
        keys = json.loads(name)
        return next((item for item in value if _key(item, tuple(keys)) == tuple(keys.values())), None)
    return None


def _holds(desired: Any, observed: Any, kind: str, field: str = "") -> bool:
    """Whether ``observed`` says all that ``desired`` says. Both come from JSON, so that their types are few."""
    if desired == observed:
        return True
    if isinstance(desired, dict):
        if not isinstance(observed, dict):
            return not desired and observed is None
        return all(_holds(value, observed.get(name), kind, name) for name, value in desired.items())
    if isinstance(desired, list | tuple):
        return _list_holds(desired, observed, kind, field)
    if observed is None:
        return _blank(desired)
    return _amount(desired) is not None and _amount(desired) == _amount(observed)


def _list_holds(desired: Sequence[Any], observed: Any, kind: str, field: str) -> bool:
    if not isinstance(observed, list):
        return not desired and observed is None
    keys = _MERGED.get(kind, _OWNERS).get(field)
    if keys is None:
        return len(desired) == len(observed) and all(
            _holds(*pair, kind) for pair in zip(desired, observed, strict=True)
        )
    there = {_key(item, keys): item for item in observed}
    return all(_key(item, keys) in there and _holds(item, there[_key(item, keys)], kind) for item in desired)


def _key(item: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    """What tells an item of a merged list from the others."""
    return tuple(item.get(key, _KEY_DEFAULTS.get(key)) for key in keys) if isinstance(item, dict) else ()


def _blank(value: Any) -> bool:
    """Whether the API server stores it as nothing at all."""
    return value is None or value is False or value in ("", 0) or (isinstance(value, dict | list) and not value)


def _amount(value: Any) -> Decimal | None:
    """The value of a Kubernetes quantity, if it is one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    number = text.rstrip("mkKMGTPEi")
    try:
        return Decimal(number) * _SUFFIXES[text[len(number) :]]
    except (InvalidOperation, KeyError):
        return None
