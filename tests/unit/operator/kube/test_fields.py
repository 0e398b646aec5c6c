from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubegym_operator.kube.fields import Item, get_at, leaves, list_keys, merge_patch, remove_at, set_at

NAMES = st.sampled_from(["a", "b", "c", "d"])
SCALARS = st.one_of(st.integers(), st.text(max_size=3), st.booleans())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.dictionaries(NAMES, inner, max_size=3), st.lists(SCALARS, max_size=3)),
    max_leaves=12,
)
CONTAINERS = st.lists(
    st.builds(lambda name, rest: {**rest, "name": name}, NAMES, st.dictionaries(NAMES, VALUES, max_size=3)),
    unique_by=lambda item: item["name"],
    max_size=3,
)
OBJECTS = st.fixed_dictionaries({"spec": st.dictionaries(NAMES, VALUES, max_size=3), "containers": CONTAINERS})


@settings(max_examples=40)
@given(OBJECTS)
def test_an_object_is_its_fields(obj: dict[str, Any]) -> None:
    rebuilt: dict[str, Any] = {}
    for path, value in leaves(obj, "Pod"):
        assert get_at(obj, path) == value
        set_at(rebuilt, path, copy.deepcopy(value))
    assert rebuilt == obj


@settings(max_examples=40)
@given(OBJECTS)
def test_without_its_fields_nothing_is_left(obj: dict[str, Any]) -> None:
    left = copy.deepcopy(obj)
    for path, _ in leaves(obj, "Pod"):
        remove_at(left, path)
    assert left == {}


@settings(max_examples=40)
@given(OBJECTS, st.data())
def test_removing_a_field_leaves_the_others(obj: dict[str, Any], data: st.DataObject) -> None:
    found = list(leaves(obj, "Pod"))
    path, _ = data.draw(st.sampled_from(found))
    left = copy.deepcopy(obj)
    remove_at(left, path)
    is_key = len(path) > 1 and isinstance(path[-2], Item) and path[-1] == "name"
    for other, value in found:
        if other != path:
            gone_with_it = isinstance(path[-2] if len(path) > 1 else None, Item) and other[:-1] == path[:-1]
            assert get_at(left, other) == value or gone_with_it or is_key


def test_removing_what_is_not_there_changes_nothing() -> None:
    obj = {"spec": {"a": 1}}
    remove_at(obj, ("spec", "b", "c"))
    assert obj == {"spec": {"a": 1}}


@pytest.mark.parametrize(
    ("kind", "field", "keys"),
    [
        ("Service", "ports", ("port", "protocol")),
        ("Deployment", "ports", ("containerPort", "protocol")),
        ("NetworkPolicy", "ports", None),
        ("Deployment", "tolerations", None),
        ("Deployment", "args", None),
        ("RolloutJob", "environments", ("name",)),
    ],
)
def test_which_lists_are_maps(kind: str, field: str, keys: tuple[str, ...] | None) -> None:
    assert list_keys(kind, field) == keys


def test_a_port_that_names_no_protocol_is_tcp() -> None:
    with_it = {"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "web"}]}}
    without = {"spec": {"ports": [{"port": 80, "name": "web"}]}}
    paths = [{path for path, _ in leaves(obj, "Service") if path[-1] == "name"} for obj in (with_it, without)]
    assert paths[0] == paths[1]


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((target, patch))
    assert merge_patch(target, patch) == result
    assert (target, patch) == before
