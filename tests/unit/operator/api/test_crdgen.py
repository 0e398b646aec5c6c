"""The generated CustomResourceDefinitions, and that what is committed is what the models say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field, StringConstraints

from kubegym.core.spec import GymEnvironment, ModelServer, RolloutJob, RolloutJobSpec, manifest_from
from kubegym.core.spec.common import SpecModel
from kubegym_operator.api.crdgen import DEFINITIONS, ROOT, Definition, definition, main, outputs
from kubegym_operator.api.rules import IMMUTABLE
from kubegym_operator.api.schema import structural_schema
from testbed.manifest_corpus import CASES, SPECS, Case, manifest

pytestmark = pytest.mark.unit

LARGEST = 200 * 1024  # kubectl apply keeps a copy in an annotation, which may have 256 KiB
PACE = {
    "parallelism",
    "concurrency",
    "suspend",
    "activeDeadlineSeconds",
    "preRunningDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "failurePolicy",
}

Schema = dict[str, Any]
OUTPUTS = outputs()
ROOTS = {kind.plural: definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind in DEFINITIONS}

each_kind = pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.plural)


def root(kind: Definition) -> Schema:
    schema: Schema = ROOTS[kind.plural]
    return schema


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every value of a schema with its path, below spec and status."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from nodes(schema[key], path + suffix)


def below(kind: Definition, *parts: str) -> list[tuple[str, Schema]]:
    return [found for part in parts for found in nodes(root(kind)["properties"][part], part)]


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_what_is_committed_is_what_the_models_say(name: str) -> None:
    assert (ROOT / name).read_text() == OUTPUTS[name], "run python -m kubegym_operator.api.crdgen"


@each_kind
def test_a_definition_is_small_enough_for_kubectl_apply(kind: Definition) -> None:
    assert len(OUTPUTS[f"crds/kubegym.dev_{kind.plural}.yaml"].encode()) <= LARGEST


@each_kind
def test_yaml_holds_the_definition(kind: Definition) -> None:
    assert yaml.safe_load(OUTPUTS[f"crds/kubegym.dev_{kind.plural}.yaml"]) == definition(kind)


@each_kind
def test_no_rule_reads_what_may_be_an_integer(kind: Definition) -> None:
    """Kubernetes 1.31 counts such a rule as if it read the longest text of a request, and refuses the definition."""
    unions = [(path, node) for path, node in below(kind, "spec") if "x-kubernetes-int-or-string" in node]
    assert unions
    assert [path for path, node in unions if "x-kubernetes-validations" in node] == []
    assert [path for path, node in unions if not {"pattern", "minimum", "maxLength"} <= set(node)] == []


@each_kind
def test_every_field_is_described(kind: Definition) -> None:
    found = [(path, node) for path, node in below(kind, "spec", "status") if not path.endswith(("[]", ".*"))]

    assert len(found) > 30
    assert [path for path, node in found if len(node.get("description", "")) < 10] == []
    assert [path for path, node in found if node["description"][-1] not in ".)"] == []


@each_kind
def test_every_value_is_bounded(kind: Definition) -> None:
    unbounded = []
    for path, node in below(kind, "spec", "status"):
        match node.get("type"):
            case "string":
                bounded = {"maxLength", "enum", "format"} & set(node)
            case "array":
                bounded = {"maxItems"} & set(node)
            case "object":
                bounded = {"properties", "maxProperties"} & set(node)
            case "integer":
                bounded = {"minimum"} & set(node) and {"maximum", "format"} & set(node)
            case _:
                bounded = {"maxLength"} & set(node) if "x-kubernetes-int-or-string" in node else {"boolean"}
        if not bounded:
            unbounded.append(path)
    assert unbounded == []


@each_kind
def test_no_float_is_stored(kind: Definition) -> None:
    assert [path for path, node in below(kind, "spec", "status") if node.get("type") == "number"] == []


@each_kind
def test_every_list_says_how_it_merges(kind: Definition) -> None:
    lists = {path: node for path, node in below(kind, "spec", "status") if node.get("type") == "array"}

    assert [path for path, node in lists.items() if "x-kubernetes-list-type" not in node] == []
    conditions = lists["status.conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


@each_kind
def test_columns_and_scale_name_fields_that_exist(kind: Definition) -> None:
    known = {f".{path}" for path, _ in below(kind, "spec", "status")} | {".metadata.creationTimestamp"}
    version = definition(kind)["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += version["subresources"].get("scale", {}).values()

    plain = [path for path in paths if "[?" not in path]
    assert [path for path in plain if path not in known] == []
    assert all(path.startswith(".status.conditions[?(@.type==") for path in set(paths) - set(plain))


def test_replicas_have_no_default() -> None:
    (server,) = (kind for kind in DEFINITIONS if kind.model is ModelServer)

    assert "default" not in root(server)["properties"]["spec"]["properties"]["replicas"]
    assert [path for path, node in below(server, "spec") if path == "spec.replicas" and "default" in node] == []


def test_every_field_of_a_job_is_either_pace_or_immutable() -> None:
    fields = {field.alias for field in RolloutJobSpec.model_fields.values()}

    assert set(IMMUTABLE) | PACE == fields
    assert not set(IMMUTABLE) & PACE


def with_defaults(schema: Schema, value: Any) -> Any:
    """A value as the API server stores it."""
    if isinstance(value, dict) and "properties" in schema:
        filled = dict(value)
        for name, field in schema["properties"].items():
            if name not in filled and "default" in field:
                filled[name] = field["default"]
            if name in filled:
                filled[name] = with_defaults(field, filled[name])
        return filled
    if isinstance(value, dict) and "additionalProperties" in schema:
        return {key: with_defaults(schema["additionalProperties"], inner) for key, inner in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], inner) for inner in value]
    return value


@pytest.mark.parametrize("case", [case for case in CASES if case.fine], ids=lambda case: case.id)
def test_stored_defaults_are_the_models_defaults(case: Case) -> None:
    (kind,) = (kind for kind in DEFINITIONS if kind.model.__name__ == case.kind)
    given = case.manifest
    stored = with_defaults({"properties": {"spec": root(kind)["properties"]["spec"]}}, given)

    assert stored != given
    assert manifest_from(stored, "stored") == manifest_from(given, "given")


def test_an_environment_needs_no_spec() -> None:
    (kind,) = (kind for kind in DEFINITIONS if kind.model is GymEnvironment)

    assert "required" not in root(kind)
    assert root(kind)["properties"]["spec"]["default"]["rolloutTimeoutSeconds"] == 3600


def test_the_smallest_manifests_name_every_kind() -> None:
    assert set(SPECS) == {kind.model.__name__ for kind in DEFINITIONS}
    assert isinstance(manifest_from(manifest("RolloutJob"), "smallest"), RolloutJob)


class Undocumented(SpecModel):
    name: Annotated[str, StringConstraints(max_length=3)]


class Unexplained(SpecModel):
    name: Annotated[str, StringConstraints(pattern="^x$", max_length=3)]
    """A name."""


class Mixed(SpecModel):
    name: Annotated[int | str, Field(max_length=3)]
    """A name, or a number."""


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Undocumented, r"Undocumented\.name has no docstring"),
        (Unexplained, r"no message says what \^x\$ asks for"),
        (Mixed, "a union of types"),
    ],
)
def test_what_the_generator_cannot_say_is_an_error(model: type[SpecModel], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        structural_schema(model)


def test_check_tells_what_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], tmp_path) == 1
    assert "crds/kubegym.dev_modelservers.yaml is out of date" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    assert main([], tmp_path) == 0
    assert "wrote docs/reference/crds.md" in capsys.readouterr().out

    assert main(["--check"], tmp_path) == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(OUTPUTS)


def test_the_generator_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubegym_operator.api.crdgen", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_reading_manifests_imports_no_generator() -> None:
    code = "import sys, kubegym_operator.api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)

    assert {"kubegym_operator.api", "kubegym.core.spec"} <= set(done.stdout.split())
    assert not {"kubegym_operator.api.schema", "kubegym_operator.api.rules", "yaml"} & set(done.stdout.split())
