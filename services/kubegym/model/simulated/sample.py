"""Arguments that fit a tool's JSON schema."""

from __future__ import annotations

from typing import Any

_MAX_DEPTH = 8


def sample(schema: Any, root: dict[str, Any] | None = None, depth: int = 0) -> Any:
    """A small value that fits a JSON schema: required properties only, the first of any alternatives.

    Args:
        schema: the schema, or whatever stands in its place.
        root: the whole schema, where local ``$ref`` lead; by default this one.
        depth: of the recursion; beyond 8 a recursive schema gets null.
    """
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    root = schema if root is None else root
    if "$ref" in schema:
        return sample(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for combined in ("anyOf", "oneOf", "allOf"):
        if schema.get(combined):
            return sample(schema[combined][0], root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties") or {}
        names = schema.get("required") or ()
        return {name: sample(properties.get(name, {"type": "string"}), root, depth + 1) for name in names}
    if kind == "array":
        return [sample(schema.get("items"), root, depth + 1) for _ in range(schema.get("minItems") or 0)]
    return _scalar(kind, schema)


def _scalar(kind: Any, schema: dict[str, Any]) -> Any:
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return int(min(max(1, low), schema.get("maximum", max(1, low))))
    if kind == "number":
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return min(max(1, low), schema.get("maximum", max(1, low)))
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = "1+1"  # A string that also is an expression: what calculators take.
    return text.ljust(schema.get("minLength") or 0, "1")[: schema.get("maxLength")]


def _resolve(reference: Any, root: dict[str, Any]) -> Any:
    """What ``#/$defs/Name`` names; None where it leads nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference.lstrip("#/").split("/"):
        if step:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
