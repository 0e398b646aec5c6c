"""The models and the CRDs refuse the same manifests (the CRDs' half runs against an API server: tests/cluster/api)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api import parse
from kubegym_operator.api.crdgen import DEFINITIONS, definition
from testbed.manifest_corpus import CASES, UPDATES, Case, changed, manifest

pytestmark = pytest.mark.unit

REFUSED = [case for case in CASES if not case.fine]


@pytest.mark.parametrize("case", [case for case in CASES if case.fine], ids=lambda case: case.id)
def test_what_the_crds_take_the_models_take(case: Case) -> None:
    assert parse(case.manifest).metadata.name == case.name


@pytest.mark.parametrize("case", [case for case in REFUSED if case.locally], ids=lambda case: case.id)
def test_what_the_crds_refuse_the_models_refuse(case: Case) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(case.manifest)

    assert (re.split(r"[.\[]", case.at)[0] or "metadata.name") in str(caught.value)


@pytest.mark.parametrize("case", [case for case in REFUSED if not case.locally], ids=lambda case: case.id)
def test_what_one_machine_can_do_the_models_take(case: Case) -> None:
    assert parse(case.manifest).metadata.name == case.name


def rules(schema: Any) -> Iterator[str]:
    """Messages of all rules of a schema."""
    if isinstance(schema, dict):
        yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from rules(inner)


def test_every_rule_has_a_case_that_it_refuses() -> None:
    messages = {message for kind in DEFINITIONS for message in rules(definition(kind))}
    answers = {case.says for case in (*CASES, *UPDATES) if case.says}

    assert len(messages) > 30
    assert [message for message in sorted(messages) if not any(answer in message for answer in answers)] == []


def test_ids_are_unique() -> None:
    ids = [case.id for case in (*CASES, *UPDATES)]

    assert len(set(ids)) == len(ids)


def test_changed_is_a_merge_patch() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}

    assert changed(base, {"a": {"b": None, "e": 3}, "d": [2]}) == {"a": {"c": 2, "e": 3}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}
    assert manifest("GymEnvironment")["spec"] == {}
