"""Structural schemas of Kubernetes from the models.

Pydantic's JSON schema is close to one; what Kubernetes writes in its own way is translated here: references are
written out, ``null`` goes, free objects keep unknown fields, lists say how they merge, defaults stand where the API
server fills them in, and each field has its docstring as description. Patterns become CEL rules, whose messages can say
what to do.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kubegym.core.spec.common import SpecModel
from kubegym_operator.api.rules import LIST_KEYS, PATTERNS, RULES, Rule, immutable_fields

Schema = dict[str, Any]

_KEPT: Final = (
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
)
"""Keywords that mean the same on both sides."""

_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


def structural_schema(model: type[SpecModel]) -> Schema:
    """The schema of a model as an API server takes it.

    Raises:
        ValueError: the model holds something that no rule here translates: a field without docstring, a pattern without
            message, a union of types.
    """
    source = model.model_json_schema(by_alias=True)
    return _Translation(source.pop("$defs", {})).model(source, model)


class _Translation:
    """One model's schema; ``definitions`` are pydantic's ``$defs``, named by class."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def model(self, source: Schema, model: type[BaseModel]) -> Schema:
        """An object with the fields of a model, and the rules that belong to it."""
        fields = {field.alias or name: (name, field) for name, field in model.model_fields.items()}
        docs = attribute_docs(model)
        properties: Schema = {}
        for alias, node in source.get("properties", {}).items():
            name, field = fields[alias]
            if name not in docs:
                raise ValueError(f"{model.__name__}.{name} has no docstring")
            properties[alias] = {"description": _description(docs[name], model, alias, node)} | self._node(node)
            default = _default(field, node)
            if default is not None:
                properties[alias]["default"] = default
        schema: Schema = {"type": "object", "properties": properties}
        if "required" in source:
            schema["required"] = source["required"]
        return schema | _validations(RULES.get(model, ()))

    def _node(self, node: Schema) -> Schema:
        """A value, without description and default."""
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            return self.model(self._definitions[name], _classes()[name])
        if "anyOf" in node:
            choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
            if len(choices) > 1:
                raise ValueError(f"a union of types has no structural schema: {choices}")
            return self._node(choices[0])
        if "const" in node:
            node = {"type": node["type"], "enum": [node["const"]]}
        schema: Schema = {key: node[key] for key in _KEPT if key in node}
        match node.get("type"):
            case "array":
                schema |= self._array(node)
            case "object":
                schema |= self._map(node)
            case "integer":
                schema["format"] = "int32" if node["maximum"] <= _INT32_MAX else "int64"
                if node["maximum"] == _INT64_MAX:
                    del schema["maximum"]  # a schema's bounds are floats, and this one would be rounded up
        if "x-kubernetes-int-or-string" in node:
            # Older API servers (1.31) count a rule on such a value as if it read the longest text of a request, which
            # is beyond the budget in a map.
            schema["pattern"] = node["pattern"]
        elif "pattern" in node:
            schema |= _validations([_pattern_rule(node["pattern"], "self.matches({})")])
        return schema

    def _array(self, node: Schema) -> Schema:
        items = self._node(node["items"])
        key = LIST_KEYS.get(node["items"].get("$ref", "").rpartition("/")[2])
        merging: Schema = {"x-kubernetes-list-type": "atomic"}
        if key is not None:
            merging = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        elif items["type"] != "object":
            merging = {"x-kubernetes-list-type": "set"}
        return {"items": items, **merging}

    def _map(self, node: Schema) -> Schema:
        """A mapping: of anything, or from names to values of one type."""
        values: Any = node.get("additionalProperties")
        names = dict(node.get("propertyNames", {}))
        if values is True:
            return {"x-kubernetes-preserve-unknown-fields": True}
        if "patternProperties" in node:
            ((names["pattern"], values),) = node["patternProperties"].items()
        rules = []
        if "pattern" in names:
            rules.append(_pattern_rule(names["pattern"], "self.all(key, key.matches({}))"))
        if "maxLength" in names:
            limit = names["maxLength"]
            rules.append(
                Rule(f"self.all(key, size(key) <= {limit})", f"a name has at most {limit} characters: shorten it")
            )
        return {"additionalProperties": self._node(values)} | _validations(rules)


def _pattern_rule(pattern: str, test: str) -> Rule:
    """The rule for a pattern of the models; ``test`` has ``{}`` where the expression's literal goes."""
    if pattern not in PATTERNS:
        raise ValueError(f"no message says what {pattern} asks for: add it to PATTERNS")
    expected = PATTERNS[pattern]
    return Rule(test.format(f"r'{expected.pattern}'"), expected.message)


def _validations(rules: Any) -> Schema:
    written = [rule.to_schema() for rule in rules]
    return {"x-kubernetes-validations": written} if written else {}


def _default(field: FieldInfo, node: Schema) -> Any:
    """What the API server fills in: written out, as rules are checked before the defaults of fields below.

    Empty maps and lists are left out: they say nothing and would be stored.
    """
    factory = field.default_factory
    if isinstance(factory, type) and issubclass(factory, BaseModel):
        return defaults_of(factory)
    return node.get("default") if node.get("default") not in (None, [], {}) else None


def defaults_of(model: type[BaseModel]) -> Schema:
    """A model's defaults as a manifest would say them."""
    defaults: Schema = _without_empty(model().model_dump(mode="json", by_alias=True, exclude_none=True))
    return defaults


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in ({}, [])}
    return value


def _description(text: str, model: type[BaseModel], alias: str, node: Schema) -> str:
    """The field's docstring, and what would drift if it stood there: its default, and whether it may change."""
    default = node.get("default")
    if default not in (None, [], {}, ""):
        text += f" Default: {str(default).lower() if isinstance(default, bool) else default}."
    if alias in immutable_fields(model):
        text += " Immutable."
    return text


@cache
def _classes() -> dict[str, type[BaseModel]]:
    """Every model by its name, which is also its name in pydantic's schemas."""
    found: dict[str, type[BaseModel]] = {}
    pending: list[type[BaseModel]] = [SpecModel]
    while pending:
        for model in pending.pop().__subclasses__():
            if found.setdefault(model.__name__, model) is not model:
                raise ValueError(f"two models are called {model.__name__}")
            pending.append(model)
    return found


@cache
def attribute_docs(of: type) -> dict[str, str]:
    """The docstrings under the attributes of a class and its bases, each on one line.

    Read here and not by pydantic (``use_attribute_docstrings``), which parses the source of every model at import: the
    data plane would start slower for texts that only this generator needs.
    """
    docs: dict[str, str] = {}
    for base in reversed(of.__mro__):
        if base in (object, BaseModel):
            continue
        body = _body(base)
        for statement, text in pairwise(body):
            match statement, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = " ".join(doc.replace("``", "`").split())
    return docs


def _body(of: type) -> list[ast.stmt]:
    module = inspect.getmodule(of)
    if module is None:
        raise ValueError(f"{of.__name__} has no source")
    return next(node.body for node in _classes_of(inspect.getsource(module)) if node.name == of.__name__)


@cache
def _classes_of(source: str) -> tuple[ast.ClassDef, ...]:
    return tuple(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
