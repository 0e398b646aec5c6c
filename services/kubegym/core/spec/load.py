"""Manifests from YAML, with every problem named by file, line and field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from kubegym.core.spec.common import API_VERSION
from kubegym.core.spec.environment import GymEnvironment
from kubegym.core.spec.model import ModelServer
from kubegym.core.spec.problems import InvalidManifests, Location, SpecProblem, did_you_mean, explain, path_text
from kubegym.core.spec.rolloutjob import RolloutJob

if TYPE_CHECKING:
    from yaml.nodes import Node

Manifest = GymEnvironment | RolloutJob | ModelServer

KINDS: dict[str, type[GymEnvironment] | type[RolloutJob] | type[ModelServer]] = {
    "GymEnvironment": GymEnvironment,
    "RolloutJob": RolloutJob,
    "ModelServer": ModelServer,
}

MAX_BYTES = 4 * 1024 * 1024
"""Largest manifest file that is read."""

MAX_DEPTH = 64
"""Deepest nesting of a document."""

MAX_NODES = 200_000
"""Most values in a document, with aliases written out."""

_TAG = "tag:yaml.org,2002:"
_MAP, _SEQ = _TAG + "map", _TAG + "seq"
_NODE_OF = {_MAP: "mapping", _SEQ: "sequence"}
_JSON_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


def load_manifests(path: str | Path) -> list[Manifest]:
    """The manifests of a YAML file, in order; empty documents are skipped.

    Raises:
        InvalidManifests: (an ``InvalidSpec``) the file cannot be read, or anything in it is wrong. Lists all problems.
    """
    source = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidManifests([SpecProblem(source, None, "", f"cannot be read: {error.strerror}")]) from error
    return parse_manifests(content, source)


def parse_manifests(content: bytes | str, source: str) -> list[Manifest]:
    """The manifests of YAML text; ``source`` is what problems call it.

    Raises:
        InvalidManifests: anything in it is wrong. Lists all problems.
    """
    problems: list[SpecProblem] = []
    manifests: list[Manifest] = []
    first_lines: dict[tuple[str, str | None, str], int] = {}
    for node, value in _documents(content, source, problems):
        manifest = _manifest(value, source, node, problems)
        if manifest is None:
            continue
        identity = (manifest.kind, manifest.metadata.namespace, manifest.name)
        line = node.start_mark.line + 1
        if identity in first_lines:
            message = f"{manifest.kind} {manifest.name!r} stands in line {first_lines[identity]} already"
            problems.append(SpecProblem(source, _line(node, ("metadata", "name")), "metadata.name", message))
        first_lines.setdefault(identity, line)
        manifests.append(manifest)
    if not manifests and not problems:
        problems.append(SpecProblem(source, None, "", "holds no manifest"))
    if problems:
        raise InvalidManifests(sorted(problems, key=lambda problem: problem.line or 0))
    return manifests


def manifest_from(value: Mapping[str, Any], source: str) -> Manifest:
    """A manifest from parsed data, such as what command-line flags add up to.

    Raises:
        InvalidManifests: anything in it is wrong. Lists all problems.
    """
    problems: list[SpecProblem] = []
    manifest = _manifest(dict(value), source, None, problems)
    if manifest is None or problems:
        raise InvalidManifests(problems)
    return manifest


def _manifest(value: object, source: str, node: Node | None, problems: list[SpecProblem]) -> Manifest | None:
    """The typed manifest, or None with its problems added."""

    def report(location: Location, message: str) -> None:
        line = None if node is None else _line(node, location)
        problems.append(SpecProblem(source, line, path_text(location), message))

    if not isinstance(value, dict):
        report((), "a manifest is a mapping with apiVersion, kind, metadata and spec")
        return None
    version, kind = value.get("apiVersion"), value.get("kind")
    if version is None:
        report(("apiVersion",), f"is required: apiVersion: {API_VERSION}")
    elif version != API_VERSION:
        report(("apiVersion",), f"must be {API_VERSION}, not {version!r}")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if kind is None:
        report(("kind",), f"is required: one of {', '.join(KINDS)}")
    elif model is None:
        report(("kind",), f"unknown kind {kind!r}" + did_you_mean(str(kind), KINDS))
    if model is None:
        return None
    try:
        manifest = model.model_validate(value)
    except ValidationError as error:
        for location, message in explain(error, model):
            if location != ("apiVersion",):
                report(location, message)
        return None
    return manifest


def _line(node: Node, location: Location) -> int:
    """The 1-based line of a location, or of the nearest field around it that is written down."""
    line: int = node.start_mark.line
    for part in location:
        child: Node | None = None
        if node.tag == _MAP:
            # Merged keys stand before a mapping's own once it is constructed; the last one counts.
            for key, value in node.value:
                if key.value == part:
                    line, child = key.start_mark.line, value
        elif node.tag == _SEQ and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
            line = child.start_mark.line
        if child is None:
            break
        node = child
    return line + 1


@cache
def _loader_class() -> Any:
    """PyYAML's safe loader (libyaml's where the wheel has it), reading the scalars that JSON knows."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class ManifestLoader(base):  # type: ignore[misc]
        """Dates stay text, as in Kubernetes; ``1e-5`` is a number, as in YAML 1.2."""

        yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
            for first, resolvers in base.yaml_implicit_resolvers.items()
        }

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    ManifestLoader.add_implicit_resolver(_TAG + "float", exponent, list("-+0123456789"))
    return ManifestLoader


def _documents(content: bytes | str, source: str, problems: list[SpecProblem]) -> Iterator[tuple[Node, object]]:
    """Each non-empty document that is JSON in YAML, as (node, value); problems of the others are added."""
    import yaml

    if len(content) > MAX_BYTES:
        problems.append(SpecProblem(source, None, "", f"is larger than {MAX_BYTES} bytes"))
        return
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1 if isinstance(content, bytes) else None
        problems.append(SpecProblem(source, line, "", "is not UTF-8 text"))
        return
    too_deep = _line_too_deep(text)
    if too_deep is not None:
        problems.append(SpecProblem(source, too_deep, "", f"is nested deeper than {MAX_DEPTH} levels"))
        return
    try:
        loader = _loader_class()(text)
        while loader.check_node():
            node: Node = loader.get_node()
            inspection = _Inspection()
            inspection.visit(node)
            problems += [SpecProblem(source, f.line, path_text(f.location), f.message) for f in inspection.faults]
            if node.tag == _TAG + "null" or any(fault.fatal for fault in inspection.faults):
                continue
            try:
                value = loader.construct_document(node)
            except (ValueError, KeyError) as error:  # such as `!!int x`, `0b_`, or a number of 5,000 digits
                line = node.start_mark.line + 1
                problems.append(SpecProblem(source, line, "", f"holds a value that cannot be read: {error}"))
                continue
            yield node, value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        problems.append(SpecProblem(source, mark.line + 1 if mark else None, "", f"is not YAML: {message}"))
    except yaml.YAMLError as error:
        problems.append(SpecProblem(source, None, "", f"is not YAML: {' '.join(str(error).split())}"))


def _line_too_deep(text: str) -> int | None:
    """The line where nesting exceeds MAX_DEPTH: libyaml's composer recurses on the C stack and would crash there."""
    import yaml

    depth = 0
    # Text that is no YAML ends the events here and is reported by who composes the documents.
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=_loader_class()):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    return event.start_mark.line + 1 if event.start_mark else 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    return None


@dataclass(frozen=True, slots=True)
class _Fault:
    """What YAML allows and a manifest must not hold; a ``fatal`` one leaves nothing to read."""

    location: Location
    line: int
    message: str
    fatal: bool = True


class _Inspection:
    """Looks for what YAML allows and JSON does not: duplicate keys, keys that are no strings, own tags, NaN, cycles.

    Aliases are followed every time, as JSON would write them out, so that the bound on nodes holds for what is read.
    """

    def __init__(self) -> None:
        self.faults: list[_Fault] = []
        self._nodes = 0

    def visit(self, node: Node, location: Location = (), above: frozenset[int] = frozenset()) -> None:
        """Inspect a node and everything below it."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._add(location, node, f"the document has more than {MAX_NODES} values, aliases written out")
        elif id(node) in above:
            self._add(location, node, "refers to itself")
        elif len(location) > MAX_DEPTH:
            self._add(location, node, f"is nested deeper than {MAX_DEPTH} levels")
        elif node.tag not in _JSON_TAGS or _NODE_OF.get(node.tag, "scalar") != getattr(node, "id", None):
            self._add(
                location, node, f"has the YAML tag {node.tag.replace(_TAG, '!!')}, which a manifest cannot have here"
            )
        elif node.tag == _MAP:
            self._visit_mapping(node, location, above | {id(node)})
        elif node.tag == _SEQ:
            for index, child in enumerate(node.value):
                self.visit(child, (*location, index), above | {id(node)})
        elif node.tag == _TAG + "float" and not math.isfinite(_number(node.value)):
            self._add(location, node, f"{node.value} is no number that JSON can hold")

    def _visit_mapping(self, node: Node, location: Location, above: frozenset[int]) -> None:
        first_lines: dict[str, int] = {}
        for key, child in node.value:
            if key.tag == _TAG + "merge":
                self.visit(child, location, above)
                continue
            if key.tag != _TAG + "str":
                found = repr(key.value) if isinstance(key.value, str) else "this one"
                self._add(location, key, f"keys must be strings; put {found} in quotes")
                continue
            here = (*location, key.value)
            if key.value in first_lines:
                message = f"is given twice, first in line {first_lines[key.value]}"
                self.faults.append(_Fault(here, key.start_mark.line + 1, message, fatal=False))
            first_lines.setdefault(key.value, key.start_mark.line + 1)
            self.visit(child, here, above)

    def _add(self, location: Location, node: Node, message: str) -> None:
        self.faults.append(_Fault(location, node.start_mark.line + 1, message))


def _number(text: str) -> float:
    """A YAML float; its forms that Python does not read (``.inf``, ``1:30.5``) are not JSON's either."""
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return math.nan
