"""Requests and executions as JSON, between a resources server or worker and its sandbox pods."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from kubegym.sandbox.errors import InvalidExecution
from kubegym.sandbox.protocol import Execution, Limits


def run_to_json(
    code: str | None,
    argv: Sequence[str] | None,
    files: Mapping[str, str | bytes] | None,
    stdin: str | bytes,
    limits: Limits | None,
    value: str | None,
    collect: Sequence[str],
) -> dict[str, Any]:
    """The arguments of ``Sandbox.run``."""
    return {
        "code": code,
        "argv": None if argv is None else list(argv),
        "files": files_to_json(files),
        "stdin": _encoded(stdin),
        "limits": None if limits is None else limits.to_dict(),
        "value": value,
        "collect": list(collect),
    }


def run_from_json(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``Sandbox.run``. Raises InvalidExecution."""
    try:
        return {
            "code": _text(body.get("code")),
            "argv": body.get("argv"),
            "files": files_from_json(body.get("files")),
            "stdin": base64.b64decode(body.get("stdin") or "", validate=True),
            "limits": limits_from_json(body.get("limits")),
            "value": _text(body.get("value")),
            "collect": list(body.get("collect") or ()),
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidExecution(f"not a request for an execution: {error}") from error


def files_to_json(files: Mapping[str, str | bytes] | None) -> dict[str, str]:
    """Contents in base64, by path."""
    return {path: _encoded(data) for path, data in (files or {}).items()}


def files_from_json(value: Mapping[str, str] | None) -> dict[str, bytes]:
    """See ``files_to_json``. Raises ValueError."""
    return {path: base64.b64decode(data, validate=True) for path, data in (value or {}).items()}


def limits_from_json(value: Mapping[str, Any] | None) -> Limits:
    """Raises InvalidExecution, or TypeError for limits of another name."""
    return Limits(**(value or {}))


def execution_to_json(done: Execution) -> dict[str, Any]:
    """An execution."""
    return {**{each.name: getattr(done, each.name) for each in fields(done)}, "files": files_to_json(done.files)}


def execution_from_json(value: Mapping[str, Any]) -> Execution:
    """Raises ValueError, TypeError and KeyError for what is none."""
    known = {each.name: value[each.name] for each in fields(Execution)}
    return Execution(**{**known, "files": files_from_json(known["files"]), "refused": tuple(known["refused"])})


def _encoded(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("code and value are texts")
    return value
