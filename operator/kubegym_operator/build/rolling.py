"""What rolls pods: the ConfigMaps that they use (rule 7). A Secret never does: it is read again on use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from kubegym_operator.build.labels import CONFIG_DIGEST, content_digest

NO_DIGESTS: Final[Mapping[str, str]] = MappingProxyType({})


def with_config_digest(template: dict[str, Any], config_digests: Mapping[str, str], *own: str) -> dict[str, Any]:
    """The template with the digest of the ConfigMaps it uses, so that another content rolls the pods (rule 7).

    Args:
        template: a pod template.
        config_digests: by name of ConfigMap, as observed; one that nobody has seen does not count.
        own: digests of what the operator itself writes.
    """
    used = {name: config_digests[name] for name in sorted(named_config_maps(template)) if name in config_digests}
    if not used and not own:
        return template
    metadata = template["metadata"]
    annotations = {**metadata.get("annotations", {}), CONFIG_DIGEST: content_digest(used, own)}
    return {**template, "metadata": {**metadata, "annotations": annotations}}


def named_config_maps(template: Mapping[str, Any]) -> set[str]:
    """The ConfigMaps that a pod template uses, as volumes or as variables.

    A part of the template is the user's: what is not as Kubernetes has it names nothing, and the API server refuses it.
    """
    spec = template["spec"]
    found: list[Any] = []
    for volume in _items(spec, "volumes"):
        sources = [volume, *_items(volume.get("projected"), "sources")]
        found += [_at(source, "configMap", "name") for source in sources]
    for container in (*_items(spec, "initContainers"), *_items(spec, "containers")):
        found += [_at(source, "configMapRef", "name") for source in _items(container, "envFrom")]
        found += [_at(variable, "valueFrom", "configMapKeyRef", "name") for variable in _items(container, "env")]
    return {name for name in found if isinstance(name, str)}


def _items(value: Any, key: str) -> list[Mapping[str, Any]]:
    """The mappings of a list, where there is one."""
    items = value.get(key) if isinstance(value, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _at(value: Any, *path: str) -> Any:
    """What lies at a path; None where nothing does."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
