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
    """The ConfigMaps that a pod template uses: as volumes, or as variables."""
    spec = template["spec"]
    found: set[str] = set()
    for volume in spec.get("volumes", ()):
        sources = [volume, *(volume.get("projected") or {}).get("sources", ())]
        found |= {source["configMap"]["name"] for source in sources if "name" in (source.get("configMap") or {})}
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for source in container.get("envFrom", ()):
            found |= {source["configMapRef"]["name"]} if "configMapRef" in source else set()
        for variable in container.get("env", ()):
            reference = (variable.get("valueFrom") or {}).get("configMapKeyRef")
            found |= {reference["name"]} if reference else set()
    return found
