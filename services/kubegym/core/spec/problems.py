"""What is wrong with a manifest, in words its author can act on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kubegym.core.errors import InvalidSpec

Location = tuple[str | int, ...]
"""Keys and indices from a document's root, as pydantic reports them."""


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One problem: where it stands and what is wrong.

    Attributes:
        source: the file, or what else the manifest came from.
        line: 1-based, or None where the manifest was no text.
        path: the field, such as ``spec.environments[0].dataset``; empty for a whole document.
        message: what is wrong.
    """

    source: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class InvalidManifests(InvalidSpec):
    """Manifests that cannot be used.

    Attributes:
        problems: all of them, in the order of the file.
    """

    def __init__(self, problems: Sequence[SpecProblem]) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(str(self.problems[0]))
        else:
            super().__init__("\n".join([f"{len(self.problems)} problems in manifests", *(f"  {p}" for p in problems)]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known word, else the known words if they are few, else nothing."""
    words = sorted(set(known))
    by_lower = {candidate.lower(): candidate for candidate in words}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {by_lower[near[0]]!r}?"
    return f"; known: {', '.join(words)}" if 0 < len(words) <= 16 else ""


def path_text(location: Iterable[str | int]) -> str:
    """A field path as people write it: ``spec.environments[0].name``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("-", "").replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    """Every problem pydantic found in a manifest of this model, as (location, message)."""
    details = error.errors(include_url=False)
    below = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    for detail in details:
        if detail["type"] == "too_short" and detail["loc"] in below:
            continue  # pydantic counts the valid items only; the invalid ones are reported themselves
        location = tuple(part for part in detail["loc"] if part != "[key]")
        yield location, _message(detail, location, model, is_key="[key]" in detail["loc"])


def _message(detail: Any, location: Location, model: type[BaseModel], *, is_key: bool) -> str:
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if is_key:
        return f"{location[-1]!r} is no valid name: {detail['msg'].lower()}"
    match kind:
        case "extra_forbidden":
            return "unknown field" + did_you_mean(str(location[-1]), _fields_at(model, location[:-1]))
        case "missing":
            return "is required"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            allowed = str(context["expected"])
            words = [word.strip("'") for word in allowed.replace(" or ", ", ").split(", ")]
            hint = did_you_mean(found, words) if isinstance(found, str) else ""
            return f"must be {allowed}, not {_shown(found)}" + (hint if "mean" in hint else "")
        case "string_type" if isinstance(found, int | float) and not isinstance(found, bool):
            return f'must be a string: write "{found}", in quotes'
        case "string_pattern_mismatch" if "[-a-z0-9]" in context["pattern"]:
            return (
                f"{found!r} is no DNS-1123 name: use lower-case letters, digits and '-', and begin and end without '-'"
            )
        case "string_pattern_mismatch":
            return f"{_shown(found)} does not match {context['pattern']}"
    expected = _EXPECTED.get(kind)
    if expected is not None:
        return f"must be {expected}, not {_shown(found)}"
    text = str(detail["msg"])
    return text[:1].lower() + text[1:] + f", not {_shown(found)}"


_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _shown(value: object) -> str:
    """A value as YAML's author knows it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """The field names (as written in manifests) of the model that lies at a location; empty where none does."""
    kind: Any = model
    for part in location:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = next((field.annotation for field in kind.model_fields.values() if field.alias == part), None)
        else:
            arguments = get_args(kind)
            kind = arguments[1] if get_origin(kind) is dict else arguments[0] if arguments else None
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return []


def _bare(kind: Any) -> Any:
    """A type without ``Annotated`` and ``| None``."""
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in (Union, UnionType):
            kind = next(member for member in get_args(kind) if member is not type(None))
        else:
            return kind
