"""The frame of every child: name, namespace, labels, owner, and what it was rendered from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubegym_operator.build import labels
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.labels import Owner


@dataclass(frozen=True, slots=True)
class Rendering:
    """One owner being rendered.

    Attributes:
        owner: the custom resource.
        context: the surroundings.
        spec_digest: of what is rendered, see ``labels.SPEC_DIGEST``.
    """

    owner: Owner
    context: BuildContext
    spec_digest: str

    @property
    def namespace(self) -> str:
        """Where the owner and its children live."""
        return self.owner.metadata.namespace or "default"

    def child(
        self,
        kind: str,
        name: str,
        component: str | None,
        *,
        api_version: str = "v1",
        more_labels: Mapping[str, str] | None = None,
        **body: Any,
    ) -> dict[str, Any]:
        """A child object; ``body`` is what it has beside metadata: ``spec``, ``data``, ..."""
        metadata: dict[str, Any] = {
            "name": name,
            "namespace": self.namespace,
            "labels": {**labels.labels(self.owner, component), **(more_labels or {})},
            "annotations": {
                labels.RENDER_REVISION: self.context.render_revision,
                labels.SPEC_DIGEST: self.spec_digest,
            },
            "ownerReferences": [labels.owner_reference(self.owner)],
        }
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}

    def service_account(self, name: str, component: str) -> dict[str, Any]:
        """An identity without power: no pod gets a token for it (DESIGN 3.7)."""
        return self.child("ServiceAccount", name, component, automountServiceAccountToken=False)
