"""``podTemplate``: a user's pod template merged over the rendered one, the way Kubernetes merges strategically.

Lists of named things merge by their key (containers, variables, volumes by ``name``, mounts by ``mountPath``, ports by
``containerPort``), tolerations and topology constraints add up, other lists are replaced. What the operator sets is the
operator's: an overlay that says something else there is refused, naming the field, except for the few fields in
``ADJUSTABLE`` that a user knows better. What would undo the pod's confinement is refused wherever it stands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any, Final

from kubegym_operator.build.errors import InvalidPodTemplate

MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "claims": "name",
    "hostAliases": "ip",
}
"""Lists that merge by a key of their items."""

ADDITIVE: Final = frozenset({"tolerations", "topologySpreadConstraints", "envFrom"})
"""Lists whose items are added to the rendered ones."""

REFUSED: Final[Mapping[str, str]] = {
    "spec.hostNetwork": "pods do not share the node's network",
    "spec.hostPID": "pods do not share the node's processes",
    "spec.hostIPC": "pods do not share the node's memory",
    "spec.restartPolicy": "the operator decides what is started again",
    "spec.serviceAccountName": "set the spec's serviceAccountName",
    "spec.serviceAccount": "set the spec's serviceAccountName",
    "spec.activeDeadlineSeconds": "the operator accounts for deadlines",
    "spec.hostname": "pods are named by what runs them",
    "spec.subdomain": "pods are named by what runs them",
    "spec.nodeName": "set nodeSelector or affinity, so that the scheduler knows",
    "spec.ephemeralContainers": "they cannot be part of a template",
}
"""Fields that no overlay sets, and why or what to do instead."""

ADJUSTABLE: Final = frozenset(
    {
        "spec.terminationGracePeriodSeconds",
        "spec.securityContext.runAsUser",
        "spec.securityContext.runAsGroup",
        "spec.securityContext.fsGroup",
        "spec.securityContext.fsGroupChangePolicy",
        "container.imagePullPolicy",
        "container.securityContext.readOnlyRootFilesystem",
        "volume.emptyDir.sizeLimit",
    }
)
"""Fields that the operator sets and an overlay may set otherwise."""

ADJUSTABLE_BELOW: Final = (
    "container.resources.",
    "container.startupProbe.",
    "container.readinessProbe.",
    "container.livenessProbe.",
)
"""Likewise, with everything below: sizes and patience."""

_ITEM_NAMES: Final = {"containers": "container", "initContainers": "container", "volumes": "volume"}


def overlaid(
    template: Mapping[str, Any], overlay: Mapping[str, Any] | None, field: str, *, adjustable: Collection[str] = ()
) -> dict[str, Any]:
    """The rendered template with the overlay's additions and adjustments.

    Args:
        template: as rendered: ``metadata`` (labels, annotations) and ``spec``.
        overlay: the user's, in the same form; None adds nothing.
        field: the path of the overlay in its manifest, for errors, such as ``spec.podTemplate``.
        adjustable: fields that may be set otherwise besides ``ADJUSTABLE``, such as ``containers[engine].image``.

    Raises:
        InvalidPodTemplate: it is no pod template, or conflicts with the operator's.
    """
    if overlay is None:
        return dict(template)
    merged: dict[str, Any] = deepcopy(dict(template))
    merge = _Merge(field, adjustable)
    for key, value in _without_nulls(overlay).items():
        if key == "metadata":
            merge.metadata(merged.setdefault("metadata", {}), value)
        elif key == "spec":
            merge.refuse(value)
            merge.mapping(merged["spec"], value, f"{field}.spec", "spec")
        else:
            raise InvalidPodTemplate(f"{field}.{key}", "a pod template has metadata and spec")
    return merged


class _Merge:
    """One merge: where it is, for errors, and what may be adjusted.

    Two paths go along: ``field`` as the user wrote it, ``rule`` in the words of ``ADJUSTABLE``.
    """

    def __init__(self, field: str, adjustable: Collection[str]) -> None:
        self._field = field
        self._adjustable = adjustable

    def metadata(self, mine: dict[str, Any], overlay: Any) -> None:
        """Labels and annotations are added; there is nothing else a template's metadata says."""
        field = f"{self._field}.metadata"
        for key, value in _mapping(overlay, field).items():
            if key not in ("labels", "annotations"):
                raise InvalidPodTemplate(f"{field}.{key}", "only labels and annotations can be added")
            for name, text in _mapping(value, f"{field}.{key}").items():
                if not isinstance(text, str):
                    raise InvalidPodTemplate(f"{field}.{key}.{name}", f"must be a string, not {text!r}")
                if mine.setdefault(key, {}).setdefault(name, text) != text:
                    raise InvalidPodTemplate(f"{field}.{key}.{name}", "belongs to the operator: remove it")

    def refuse(self, spec: Any) -> None:
        """Fields of the pod that no overlay sets."""
        for key in _mapping(spec, f"{self._field}.spec"):
            if f"spec.{key}" in REFUSED:
                raise InvalidPodTemplate(f"{self._field}.spec.{key}", REFUSED[f"spec.{key}"])

    def mapping(self, mine: dict[str, Any], overlay: Any, field: str, rule: str) -> None:
        """Merge a mapping into the rendered one, in place."""
        for key, value in _mapping(overlay, field).items():
            where, how = f"{field}.{key}", f"{rule}.{key}"
            if key == "securityContext":
                _confined(value, where)
            if key not in mine:
                if rule.startswith("volume"):  # a second source would leave the choice to the API server
                    raise InvalidPodTemplate(where, "the volume is the operator's: choose another name")
                mine[key] = self._fresh(key, value, where)
            elif key in MERGE_KEYS:
                self._items(mine[key], value, where, key)
            elif key in ADDITIVE:
                mine[key] = [*mine[key], *deepcopy(_list(value, where))]
            elif isinstance(mine[key], dict):
                self.mapping(mine[key], value, where, how)
            elif mine[key] != value:
                if not self._may_adjust(where, how):
                    raise InvalidPodTemplate(where, f"is the operator's ({mine[key]!r}): remove it")
                mine[key] = deepcopy(value)

    def _fresh(self, key: str, value: Any, field: str) -> Any:
        """A value where the operator has set none; lists of named things still need their names."""
        if key in MERGE_KEYS:
            fresh: list[dict[str, Any]] = []
            self._items(fresh, value, field, key)
            return fresh
        return deepcopy(value)

    def _items(self, mine: list[dict[str, Any]], overlay: Any, field: str, key: str) -> None:
        """Merge a list of named things, in place: known names are merged, others are added at the end."""
        merge_key, rule = MERGE_KEYS[key], _ITEM_NAMES.get(key, key)
        for index, item in enumerate(_list(overlay, field)):
            where = f"{field}[{index}]"
            name = _mapping(item, where).get(merge_key)
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise InvalidPodTemplate(where, f"needs {merge_key}")
            same = next((each for each in mine if each.get(merge_key) == name), None)
            if same is None:
                fresh = {merge_key: name}
                self.mapping(fresh, item, where, "")
                mine.append(fresh)
            elif rule == "container" or rule == "volume":
                self._program(same, item, f"{field}[{name}]")
                self.mapping(same, item, f"{field}[{name}]", rule)
            elif same != item:
                raise InvalidPodTemplate(f"{field}[{name}]", "is the operator's: choose another " + merge_key)

    def _program(self, mine: Mapping[str, Any], overlay: Mapping[str, Any], field: str) -> None:
        """A container with an image of ours keeps its program: its entrypoint and what that is told."""
        for key in ("command", "args"):
            if "image" in mine and key in overlay and mine.get(key) != overlay[key]:
                raise InvalidPodTemplate(f"{field}.{key}", "is the operator's: remove it")

    def _may_adjust(self, field: str, rule: str) -> bool:
        named = field.removeprefix(f"{self._field}.spec.") in self._adjustable
        return named or rule in ADJUSTABLE or rule.startswith(ADJUSTABLE_BELOW)


def _confined(value: Any, field: str) -> None:
    """A security context that keeps the pod confined."""
    context = _mapping(value, field)
    wrong = {"privileged": True, "allowPrivilegeEscalation": True, "runAsNonRoot": False, "runAsUser": 0}
    for key, refused in wrong.items():
        if context.get(key) == refused and _same_type(context.get(key), refused):
            raise InvalidPodTemplate(f"{field}.{key}", "pods of KubeGym keep to the pod security standard 'restricted'")
    added = _mapping(context.get("capabilities", {}), f"{field}.capabilities").get("add")
    if added:
        raise InvalidPodTemplate(f"{field}.capabilities.add", "pods of KubeGym have no capabilities")


def _without_nulls(value: Any) -> Any:
    """``null`` says nothing, as in every manifest of Kubernetes."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def _same_type(value: object, other: object) -> bool:
    return isinstance(value, bool) == isinstance(other, bool)


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidPodTemplate(field, f"must be a mapping, not {type(value).__name__}")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidPodTemplate(field, f"must be a list, not {type(value).__name__}")
    return list(value)
