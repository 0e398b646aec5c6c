"""The kinds of ``kubegym.dev`` as the operator reads them: ``kubegym.core.spec``, and what a cluster adds to it.

``conditions`` and ``reasons`` are the words of a status, ``status`` its schema, ``rules`` what the API server refuses,
``crdgen`` writes the CustomResourceDefinitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kubegym.core.spec import (
    API_VERSION,
    GymEnvironment,
    GymEnvironmentSpec,
    ModelBinding,
    ModelServer,
    ModelServerSpec,
    RolloutJob,
    RolloutJobSpec,
    manifest_from,
)

GROUP: Final = "kubegym.dev"
VERSION: Final = "v1alpha1"


def parse(raw: Mapping[str, Any]) -> GymEnvironment | RolloutJob | ModelServer:
    """The typed object of what the API server stores; ``status`` is left out, it is read by its own models.

    Raises:
        InvalidSpec: the object breaks a rule of the models; the message names object, field and remedy. An object that
            an older CRD admitted can do so, hence every caller has to be ready for it.
    """
    return manifest_from({key: value for key, value in raw.items() if key != "status"}, _identity(raw))


def _identity(raw: Mapping[str, Any]) -> str:
    metadata = raw.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = "/".join(str(metadata[key]) for key in ("namespace", "name") if key in metadata)
    return f"{raw.get('kind', 'object')} {name}".strip()


__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "GymEnvironment",
    "GymEnvironmentSpec",
    "ModelBinding",
    "ModelServer",
    "ModelServerSpec",
    "RolloutJob",
    "RolloutJobSpec",
    "parse",
]
