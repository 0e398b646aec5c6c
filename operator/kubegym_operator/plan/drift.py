"""Whether an object that lies in the cluster still says what was applied.

The API server adds defaults and others add fields, so the question is not equality but whether all that is desired is
still there. What differs only in spelling is the same: ``1000m`` and ``1``, an empty map and none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from kubegym_operator.build.labels import APPLIED_HASH
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import annotations_of

_ITEM_KEYS: Final[Mapping[str, str]] = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""What tells the items of the lists apart that Kubernetes merges; others may add items to these. Any other is whole."""

_PORTS: Final[Mapping[str, str]] = {"Service": "port", "NetworkPolicy": ""}
"""The same for ``ports``, by the kind of object; a container's otherwise."""

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
    key = _PORTS.get(kind, "containerPort") if field == "ports" else _ITEM_KEYS.get(field)
    if not key:
        return len(desired) == len(observed) and all(
            _holds(*pair, kind) for pair in zip(desired, observed, strict=True)
        )
    there = {item.get(key): item for item in observed if isinstance(item, dict)}
    return all(item.get(key) in there and _holds(item, there[item.get(key)], kind) for item in desired)


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
