"""Tools: a method with types and a docstring becomes a tool definition and a validated call."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, overload

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from kubegym.core.messages import Image, ToolOutput

F = TypeVar("F", bound=Callable[..., Any])

RESERVED_NAMES = frozenset({"verify", "seed_session", "aggregate_metrics", "mcp", "run"})
"""Names that the resources server's own routes take (contract 1.5)."""

NOT_FOUND = '{"detail":"Not Found"}'
"""What an unknown tool answers (contract 1.7)."""

_KEPT = "__kubegym_tools__"
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Notes?|Attributes):\s*$")
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_LITERAL_KEYS = frozenset({"default", "enum", "const", "examples"})


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """What ``@tool`` was given."""

    name: str
    parallel: bool
    catch_all: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of an environment class.

    Attributes:
        name: as the model calls it.
        attribute: the method's name.
        definition: the Responses tool definition; None for the catch-all.
        parallel: whether its calls may run beside others of a turn.
        label: what the watchdog and error messages call it.
    """

    name: str
    attribute: str
    definition: dict[str, Any] | None
    parallel: bool
    label: str
    _arguments: type[BaseModel] | None = field(repr=False, default=None)
    _fields: tuple[tuple[str, str], ...] = field(repr=False, default=())

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the method. Raises pydantic's ValidationError.

        Unknown arguments are ignored, as in the contract's servers.
        """
        if self._arguments is None:
            return arguments
        values = self._arguments.__pydantic_validator__.validate_python(arguments).__dict__
        return {name: values[internal] for internal, name in self._fields}


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(*, name: str | None = None, parallel: bool = False, catch_all: bool = False) -> Callable[[F], F]: ...
def tool(
    function: F | None = None, /, *, name: str | None = None, parallel: bool = False, catch_all: bool = False
) -> F | Callable[[F], F]:
    """Make a method a tool of its environment.

    The definition follows from the method: the name, the parameters' types (pydantic's rules; ``Annotated[...,
    Field(...)]`` for bounds), the docstring as the description, its ``Args:`` as the parameters' descriptions. The
    result goes to the model: text as it is, an ``Image`` or a list with images as such, anything else as JSON.
    ``ToolError`` answers with its message; any other exception fails the attempt.

    Args:
        function: the method, when used without parentheses.
        name: another name than the method's.
        parallel: its calls may run at the same time as others of the same turn.
        catch_all: gets ``(self, name, arguments)`` for every name that is no tool.

    Raises:
        ValueError: a name that is reserved or that models cannot call.
    """

    def mark(target: F) -> F:
        chosen = name or target.__name__
        if chosen in RESERVED_NAMES:
            raise ValueError(f"tool name {chosen!r} is reserved for the server's own routes; choose another")
        if not _NAME.match(chosen):
            raise ValueError(f"tool name {chosen!r} must be 1 to 64 letters, digits, _ or -")
        target.__kubegym_tool__ = ToolOptions(chosen, parallel, catch_all)  # type: ignore[attr-defined]
        return target

    return mark if function is None else mark(function)


@dataclass(frozen=True, slots=True)
class ToolSet:
    """All tools of an environment class."""

    by_name: Mapping[str, Tool]
    catch_all: Tool | None
    definitions: list[dict[str, Any]]

    def find(self, name: str) -> Tool | None:
        """The tool that answers to a name: its own, else the catch-all."""
        return self.by_name.get(name, self.catch_all)

    def check_row_tools(self, row_tools: Sequence[Any]) -> str | None:
        """Why a row's own ``tools`` do not fit these, or None.

        Each function needs a tool of that name (or a catch-all) that knows every parameter the row offers and whose
        required parameters the row offers. Tools of other types are the model's affair.
        """
        for position, offered in enumerate(row_tools):
            if not isinstance(offered, dict):
                return f"tools[{position}] is not an object"
            if offered.get("type", "function") != "function":
                continue
            name = offered.get("name")
            known = self.by_name.get(name) if isinstance(name, str) else None
            if known is None:
                if self.catch_all is not None and isinstance(name, str):
                    continue
                return f"tools[{position}]: the environment has no tool {name!r} (tools: {self._names()})"
            problem = _parameter_mismatch(known, offered.get("parameters"))
            if problem is not None:
                return f"tools[{position}] ({name}): {problem}"
        return None

    def _names(self) -> str:
        return ", ".join(self.by_name) or "none"


def tools_of(cls: type) -> ToolSet:
    """The tools of a class, inherited ones included, in the order of definition; base classes first.

    They are kept in the class: a test that plays many rollouts describes them once.

    Raises:
        TypeError: a method that cannot be a tool, two tools of one name, or two catch-alls.
    """
    known: ToolSet | None = cls.__dict__.get(_KEPT)
    if known is None:
        known = _find_tools(cls)
        setattr(cls, _KEPT, known)
    return known


def _find_tools(cls: type) -> ToolSet:
    methods: dict[str, tuple[ToolOptions, Any]] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            options = getattr(value, "__kubegym_tool__", None)
            if options is not None:
                methods[attribute] = (options, value)
            else:
                methods.pop(attribute, None)  # overridden by something that is no tool
    by_name: dict[str, Tool] = {}
    catch_all: Tool | None = None
    for attribute, (options, function) in methods.items():
        if options.catch_all:
            if catch_all is not None:
                raise TypeError(f"{cls.__name__} has two catch-all tools: {catch_all.attribute}, {attribute}")
            catch_all = Tool(options.name, attribute, None, options.parallel, f"tool {attribute}")
            continue
        if options.name in by_name:
            raise TypeError(f"{cls.__name__} has two tools named {options.name!r}")
        by_name[options.name] = _describe(cls, attribute, options, function)
    definitions = [known.definition for known in by_name.values() if known.definition is not None]
    return ToolSet(by_name, catch_all, definitions)


def tool_result(value: Any, limit: int) -> ToolOutput:
    """A tool's result as the model gets it: text, or content parts where there are images; texts cut to ``limit``.

    Raises:
        TypeError: something is neither text, JSON nor an image.
    """
    if isinstance(value, Image):
        return [value.to_part()]
    if isinstance(value, list | tuple) and any(isinstance(part, Image) for part in value):
        return [
            part.to_part() if isinstance(part, Image) else {"type": "input_text", "text": cut(output_text(part), limit)}
            for part in value
        ]
    return cut(output_text(value), limit)


def output_text(value: Any) -> str:
    """A tool's result as the text the model reads. Raises TypeError for what is neither text nor JSON."""
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    try:
        return orjson.dumps(
            value, default=_jsonable, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        ).decode()
    except TypeError:
        # Integers beyond 64 bits and lone surrogates are JSON, though not orjson's.
        return valid_unicode(json.dumps(value, default=_jsonable, ensure_ascii=False, separators=(",", ":")))


def valid_unicode(text: str) -> str:
    """Lone surrogates replaced: they would make the whole row unwritable."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def cut(text: str, limit: int) -> str:
    """The text, cut to ``limit`` characters with a note where it is longer."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[output cut: {len(text)} characters, only the first {limit} are shown]"


def validation_detail(error: ValidationError) -> str:
    """The contract's text for bad arguments: ``{"detail":[{type,loc,msg,input}]}`` (1.1, 1.7)."""
    detail = [
        {"type": one["type"], "loc": ["body", *one["loc"]], "msg": one["msg"], "input": one["input"]}
        for one in error.errors(include_url=False, include_context=False)
    ]
    return output_text({"detail": detail})


def _describe(cls: type, attribute: str, options: ToolOptions, function: Any) -> Tool:
    where = f"{cls.__name__}.{attribute}"
    description, argument_texts = parse_docstring(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    names: list[tuple[str, str]] = []
    for position, parameter in enumerate(list(inspect.signature(function).parameters.values())[1:]):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{where}: a tool's parameters are named; {parameter} is not")
        hint = hints.get(parameter.name, Any)
        text = argument_texts.get(parameter.name) if not FieldInfo.from_annotation(hint).description else None
        # Internal names, because a parameter may be called `copy` or `_x`, which no pydantic field can be.
        annotation = (
            Annotated[hint, Field(alias=parameter.name, description=text)]
            if text
            else (Annotated[hint, Field(alias=parameter.name)])
        )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"p{position}"] = (annotation, default)
        names.append((f"p{position}", parameter.name))
    arguments = create_model(where, __config__=ConfigDict(extra="ignore", arbitrary_types_allowed=True), **fields)
    raw = _plain(arguments.model_json_schema(by_alias=True))
    schema = {"type": "object", "properties": raw.get("properties", {}), "required": raw.get("required", [])}
    schema["additionalProperties"] = False
    if "$defs" in raw:
        schema["$defs"] = raw["$defs"]
    definition = {
        "type": "function",
        "name": options.name,
        "description": description,
        "parameters": schema,
        "strict": _closed(schema),
    }
    return Tool(options.name, attribute, definition, options.parallel, f"tool {options.name}", arguments, tuple(names))


def parse_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """A Google docstring's text before its first section, and the texts of its ``Args``."""
    lines = doc.splitlines()
    first = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    description = "\n".join(lines[:first]).strip()
    texts: dict[str, str] = {}
    section = current = ""
    depth = 0
    for line in lines[first:]:
        heading = _SECTION.match(line)
        if heading:
            section, current, depth = heading.group(1), "", 0
            continue
        if section not in ("Args", "Arguments", "Parameters") or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        depth = depth or indent
        entry = _ARGUMENT.match(line.strip()) if indent <= depth else None
        if entry:
            current = entry.group(1)
            texts[current] = entry.group(2).strip()
        elif current:
            texts[current] = f"{texts[current]} {line.strip()}".strip()
    return description, texts


def _plain(schema: Any) -> Any:
    """A schema without pydantic's titles, which cost the policy tokens and say nothing."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: part if key in _LITERAL_KEYS else _plain(part)
        for key, part in schema.items()
        if not (key == "title" and isinstance(part, str))
    }


def _closed(schema: Any) -> bool:
    """Whether a schema is one that ``strict`` allows: every object lists all its properties, all required."""
    if isinstance(schema, list):
        return all(_closed(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    is_object = schema.get("type") == "object" or "properties" in schema
    if is_object and (
        schema.get("additionalProperties") is not False
        or set(schema.get("properties", {})) != set(schema.get("required", ()))
    ):
        return False
    if not schema:
        return False  # any value
    return all(
        all(_closed(part) for part in value.values()) if key in ("properties", "$defs") else _closed(value)
        for key, value in schema.items()
        if key not in _LITERAL_KEYS
    )


def _parameter_mismatch(known: Tool, offered: Any) -> str | None:
    assert known.definition is not None
    schema = known.definition["parameters"]
    if offered is None:
        offered = {}
    if not isinstance(offered, dict):
        return "parameters is not a JSON schema"
    properties = offered.get("properties") or {}
    unknown = [name for name in properties if name not in schema["properties"]]
    if unknown:
        return f"no parameter {unknown[0]!r} (parameters: {', '.join(schema['properties']) or 'none'})"
    missing = [name for name in schema.get("required", ()) if name not in properties]
    return f"lacks the required parameter {missing[0]!r}" if missing else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"a tool's result must be text or JSON; {type(value).__name__} is neither")
