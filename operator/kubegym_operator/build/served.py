"""The manifest that an environment's servers read: its models resolved, and nothing that only Kubernetes needs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from kubegym.core.spec import API_VERSION, GymEnvironment
from kubegym.core.spec.common import TRAIT_PREFIX, TRAITS
from kubegym_operator.build.endpoints import POLICY, ModelEndpointUrl
from kubegym_operator.build.labels import content_digest

FOLDER: Final = "/etc/kubegym/environment"
FILE: Final = "environment.yaml"

PACE: Final = frozenset({"suspend", "idlePolicy"})
"""Fields of an environment that say when it runs, not what it is."""

PART_PACE: Final = frozenset({"replicas", "compute"})
"""Likewise, of its resources server and its agent."""

_PODS_ONLY: Final = frozenset({"image", "serviceAccountName", "podTemplate", "sandbox"})


def environment_manifest(environment: GymEnvironment) -> dict[str, Any]:
    """The manifest as it was written: identity, what it says about itself, spec; defaults left out."""
    metadata: dict[str, Any] = {"name": environment.name}
    if environment.metadata.labels:
        metadata["labels"] = dict(environment.metadata.labels)
    traits = {TRAIT_PREFIX + trait for trait in TRAITS}
    annotations = {key: text for key, text in environment.metadata.annotations.items() if key in traits}
    if annotations:
        metadata["annotations"] = annotations
    spec = environment.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"apiVersion": API_VERSION, "kind": environment.kind, "metadata": metadata, "spec": spec}


def served_manifest(environment: GymEnvironment, endpoints: Mapping[str, ModelEndpointUrl]) -> dict[str, Any]:
    """The manifest for the environment's own servers: each model is an ``endpoint``, wherever it comes from."""
    manifest = environment_manifest(environment)
    spec = {key: value for key, value in manifest["spec"].items() if key not in PACE | {"network"}}
    for part in ("resources", "agent"):
        kept = without(spec.pop(part, {}), PART_PACE | _PODS_ONLY)
        if kept:  # a part of which only the pace is said is a part of which nothing is said
            spec[part] = kept
    if endpoints:
        spec["models"] = {role: {"endpoint": _endpoint(endpoint)} for role, endpoint in sorted(endpoints.items())}
    return {**manifest, "spec": spec}


def without(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The fields but those of these names."""
    return {key: value for key, value in fields.items() if key not in names}


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as a file: JSON, which every reader of YAML takes for the same values."""
    return json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def resources_digest(manifest: Mapping[str, Any]) -> str:
    """Of what a resources server reads: another harness or policy is none of its business, and ends no session."""
    spec = {key: value for key, value in manifest["spec"].items() if key != "agent"}
    spec["models"] = {role: model for role, model in spec.get("models", {}).items() if role != POLICY}
    return content_digest(manifest["metadata"], spec)


def agent_digest(manifest: Mapping[str, Any]) -> str:
    """Of what an agent reads: everything."""
    return content_digest(manifest["metadata"], manifest["spec"])


def _endpoint(endpoint: ModelEndpointUrl) -> dict[str, Any]:
    value: dict[str, Any] = {"baseUrl": endpoint.base_url, "model": endpoint.model}
    if endpoint.api_key is not None:
        value["apiKeySecretRef"] = endpoint.api_key.model_dump(mode="json", by_alias=True)
    return value
