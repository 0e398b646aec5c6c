"""The reference page of the kinds, from their CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kubegym_operator.api.reasons import Type
from kubegym_operator.api.schema import attribute_docs

Schema = dict[str, Any]

_HEAD = """\
# Kinds of kubegym.dev/v1alpha1

<!-- Generated from the models by `python -m kubegym_operator.api.crdgen`; do not edit. -->

Every field of a manifest, as `kubectl explain` shows it. A local run reads the same manifests; what a cluster refuses
and a local run takes: `file://` (a pod does not see your disk), weights that are not pinned (`hf://` without revision,
`oci://` without digest), and names of more than 40 characters or with a digit in front.

Required fields are marked with \\*. Numbers that may be fractions are strings. Where a field is left out, its default
stands in the text.
"""


def reference_page(crds: Sequence[Schema]) -> str:
    """The page as Markdown: one section a kind, one table an object."""
    lines = [_HEAD]
    specs = {crd["spec"]["names"]["kind"]: _root(crd)["properties"]["spec"]["properties"] for crd in crds}
    for crd in crds:
        lines += _kind(crd, specs)
    lines += _conditions()
    return "\n".join(lines)


def _root(crd: Schema) -> Schema:
    schema: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _kind(crd: Schema, specs: Schema) -> Iterator[str]:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    root = _root(crd)
    yield f"## {names['kind']}\n"
    yield f"{root['description']}\n"
    words = [names["plural"], names["singular"], *names["shortNames"]]
    yield f"`kubectl get` knows it as {', '.join(f'`{word}`' for word in words)}." + _scale(version) + "\n"
    for part in ("spec", "status"):
        yield from _object(f"{names['kind']}.{part}", root["properties"][part], specs)


def _conditions() -> Iterator[str]:
    yield "## Conditions\n"
    yield "`reason` says why in one word; the list is open. `message` says it to people, with what to do.\n"
    yield "| type | True means |"
    yield "|---|---|"
    docs = attribute_docs(Type)
    for name, word in vars(Type).items():
        if name in docs:
            yield f"| `{word}` | {docs[name]} |"
    yield ""


def _scale(version: Schema) -> str:
    scale = version["subresources"].get("scale")
    return f" `kubectl scale` writes `{scale['specReplicasPath'][1:]}`." if scale else ""


def _object(path: str, schema: Schema, specs: Schema) -> Iterator[str]:
    """A table of the fields of an object, then those of the objects below it; another kind's spec is only named."""
    yield f"### `{path}`\n"
    if "description" in schema and path.count(".") == 1:
        yield f"{schema['description']}\n"
    for rule in schema.get("x-kubernetes-validations", ()):
        if "immutable" not in rule["message"]:
            yield f"- {rule['message']}."
    if schema.get("x-kubernetes-validations"):
        yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    required = set(schema.get("required", ()))
    below: list[tuple[str, Schema]] = []
    for name, field in schema["properties"].items():
        mark = r"\*" if name in required else ""
        inner, suffix = _inner(field)
        same = next((kind for kind, spec in specs.items() if inner and inner.get("properties") == spec), None)
        kind = f"[{same}.spec](#{same.lower()}spec)" if same else _type(field)
        yield f"| `{name}`{mark} | {kind} | {_cell(field)} |"
        if inner is not None and inner.get("properties") and not same:
            below.append((f"{path}.{name}{suffix}", inner))
    yield ""
    for name, inner in below:
        yield from _object(name, inner, specs)


def _inner(field: Schema) -> tuple[Schema | None, str]:
    """The object that a field holds, and how its place is written behind the field's name."""
    if "items" in field:
        return field["items"], "[]"
    if "additionalProperties" in field:
        return field["additionalProperties"], ".<name>"
    return (field, "") if field.get("type") == "object" else (None, "")


def _type(field: Schema) -> str:
    """A field's type and bounds, short."""
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "any object"
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "items" in field:
        return f"list of {_type(field['items'])}, at most {field['maxItems']}"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}, at most {field['maxProperties']}"
    if field["type"] == "integer":
        low, high = field.get("minimum"), field.get("maximum")
        return f"integer, {low} to {high}" if high is not None else f"integer, from {low}"
    if field.get("format") == "date-time":
        return "time"
    return str(field["type"])


def _cell(field: Schema) -> str:
    rules = "".join(
        f" Rule: {rule['message']}."
        for rule in field.get("x-kubernetes-validations", ())
        if field.get("type") == "string"
    )
    text: str = field["description"] + rules
    return text.replace("|", r"\|")
