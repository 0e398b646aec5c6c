"""Answers that have to fit a JSON schema. Needs the extra ``verify``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubegym.core.errors import InvalidSpec

_MOST = 20


def problems(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What keeps a JSON value from fitting a schema, at most 20, each with its path; none where it fits.

    Formats (``date``, ``email``) are checked as far as jsonschema knows them without further packages.

    Raises:
        InvalidSpec: the schema is none, or jsonschema is not installed.
    """
    try:
        import jsonschema
    except ImportError as error:
        raise InvalidSpec(
            "JSON schemas need jsonschema: pip install 'kubegym[verify]'", reason="MissingDependency"
        ) from error
    validator_class = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidSpec(f"no JSON schema: {error.message}") from error
    validator = validator_class(schema, format_checker=validator_class.FORMAT_CHECKER)
    found = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{error.json_path}: {error.message:.200}" for error in found[:_MOST]]
