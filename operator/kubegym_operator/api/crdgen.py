"""CustomResourceDefinitions and their reference page, written from the models.

python -m kubegym_operator.api.crdgen            write crds/ and docs/reference/crds.md
python -m kubegym_operator.api.crdgen --check    exit with 1 where they differ from the models
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Final

import yaml

from kubegym.core.spec.common import KubeObject, SpecModel
from kubegym_operator.api import GROUP, VERSION, GymEnvironment, ModelServer, RolloutJob
from kubegym_operator.api.reference import reference_page
from kubegym_operator.api.rules import NAME_RULES
from kubegym_operator.api.schema import Schema, defaults_of, structural_schema
from kubegym_operator.api.status import UNSEEN, GymEnvironmentStatus, ModelServerStatus, RolloutJobStatus

ROOT: Final = Path(__file__).resolve().parents[3]
"""The repository; the generator is for developers and does not run from an installed package."""

HEADER: Final = "# Generated from the models by `python -m kubegym_operator.api.crdgen`; do not edit.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones show with ``-o wide`` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def to_schema(self) -> Schema:
        """The entry of ``additionalPrinterColumns``."""
        entry: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            entry["description"] = self.description
        return entry | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class Definition:
    """What a kind has beside its schema."""

    model: type[KubeObject]
    status: type[SpecModel]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: Schema | None = None


def _condition(name: str, type: str, field: str = "status", *, wide: bool = False, description: str = "") -> Column:
    path = f'.status.conditions[?(@.type=="{type}")].{field}'
    return Column(name, path, wide=wide, description=description)


_AGE = Column("Age", ".metadata.creationTimestamp", "date")

DEFINITIONS: Final = (
    Definition(
        GymEnvironment,
        GymEnvironmentStatus,
        "gymenvironments",
        "genv",
        (
            _condition("Ready", "Ready", description="Nothing is left to do: it serves, or rests as asked."),
            _condition("Reason", "Ready", "reason", description="Why it is ready or not."),
            _condition("Serving", "Serving", description="It answered a real request."),
            Column(
                "Models", ".status.parts.models.readyReplicas", "integer", description="Model replicas that answer."
            ),
            Column("Resources", ".status.parts.resources.readyReplicas", "integer", description="Pods that are ready."),
            Column("Agents", ".status.parts.agent.readyReplicas", "integer", description="Pods that are ready."),
            Column("Jobs", ".status.activeRolloutJobs", "integer", wide=True, description="Active RolloutJobs."),
            _condition("Message", "Ready", "message", wide=True, description="The reason in words."),
            _AGE,
        ),
    ),
    Definition(
        RolloutJob,
        RolloutJobStatus,
        "rolloutjobs",
        "rj",
        (
            _condition("State", "Progressing", "reason", description="What the job does now, or how it ended."),
            Column("Workers", ".status.workers", "integer", description="Worker pods that exist."),
            Column("Scored", ".status.rollouts.scored", "integer", description="Rollouts with a reward."),
            Column("Failed", ".status.rollouts.failed", "integer", description="Rollouts that broke."),
            Column("Expected", ".status.rollouts.expected", "integer", description="Rollouts of the plan."),
            Column("Reward", ".status.rewardMean", description="Mean reward of the scored rollouts."),
            Column("Shards", ".status.shards.committed", "integer", wide=True, description="Shards that are done."),
            Column("Rate", ".status.throughput", wide=True, description="Rollouts a second."),
            Column("Ends", ".status.estimatedCompletionTime", wide=True, description="Estimated end."),
            Column("Output", ".spec.output.uri", wide=True, description="Where results go."),
            _condition("Message", "Progressing", "message", wide=True, description="The state in words."),
            _AGE,
        ),
        scale={"specReplicasPath": ".spec.parallelism", "statusReplicasPath": ".status.workers"},
    ),
    Definition(
        ModelServer,
        ModelServerStatus,
        "modelservers",
        "ms",
        (
            _condition("Ready", "Ready", description="Nothing is left to do: it serves, or rests as asked."),
            _condition("Reason", "Ready", "reason", description="Why it is ready or not."),
            _condition("Serving", "Serving", description="It answered a real request."),
            Column("Replicas", ".status.readyReplicas", "integer", description="Replicas that answer."),
            Column("Desired", ".status.desiredReplicas", "integer", description="Replicas that are wanted now."),
            Column("Version", ".status.policyVersion", "integer", description="Version of the weights that it serves."),
            Column("Engine", ".spec.engine", description="What computes."),
            Column("Source", ".spec.source.uri", wide=True, description="Where the weights come from."),
            _condition("Message", "Ready", "message", wide=True, description="The reason in words."),
            _AGE,
        ),
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
)


def definition(kind: Definition) -> Schema:
    """The CustomResourceDefinition of a kind."""
    name = kind.model.__name__
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}} | ({"scale": kind.scale} if kind.scale else {}),
        "additionalPrinterColumns": [column.to_schema() for column in kind.columns],
        "schema": {"openAPIV3Schema": _root_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": ["kubegym"],
            },
            "versions": [version],
        },
    }


def _root_schema(kind: Definition) -> Schema:
    spec_field = kind.model.model_fields["spec"]
    spec_model: type[SpecModel] = spec_field.annotation  # type: ignore[assignment]
    spec: Schema = {"description": _docstring(spec_model), **structural_schema(spec_model)}
    if not spec_field.is_required():
        spec["default"] = defaults_of(spec_model)
    return {
        "description": _docstring(kind.model),
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"Always {kind.model.__name__}."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"description": _docstring(kind.status), **structural_schema(kind.status), "default": UNSEEN},
        },
        **({"required": ["spec"]} if spec_field.is_required() else {}),
        "x-kubernetes-validations": [rule.to_schema() for rule in NAME_RULES],
    }


def _docstring(model: type[SpecModel]) -> str:
    return " ".join(cleandoc(model.__doc__ or "").replace("``", "`").split())


class _Dumper(yaml.SafeDumper):
    """Lists stand below their key, deeper, as people write Kubernetes objects."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def to_yaml(value: Schema) -> str:
    """YAML in the order given."""
    return HEADER + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def outputs() -> dict[str, str]:
    """Every generated file: path from the repository's root -> text."""
    crds = {f"crds/{GROUP}_{kind.plural}.yaml": definition(kind) for kind in DEFINITIONS}
    return {path: to_yaml(crd) for path, crd in crds.items()} | {
        "docs/reference/crds.md": reference_page(list(crds.values()))
    }


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the generated files below ``root``; the exit code."""
    parser = argparse.ArgumentParser(prog="crdgen", description="Write CRDs and their reference page from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for name, text in outputs().items():
        path = root / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for name in stale:
        print(f"{name} is out of date: run python -m kubegym_operator.api.crdgen" if check else f"wrote {name}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
