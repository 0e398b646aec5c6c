"""Whether what lies in the cluster still says what was applied."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.children import stamped
from kubegym_operator.plan.drift import differs, taken_over


def applied(spec: Any, kind: str = "Service") -> Object:
    return stamped({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})


def seen(desired: Object, spec: Any) -> Object:
    return {**desired, "spec": spec, "status": {"a": 1}}


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        pytest.param({"a": 1}, {"a": 1, "defaulted": True}, id="defaults"),
        pytest.param({"cpu": "1000m", "memory": "1024Mi"}, {"cpu": "1", "memory": "1Gi"}, id="quantities"),
        pytest.param({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}, id="empty value"),
        pytest.param({"labels": {}, "x": []}, {}, id="empty"),
        pytest.param({"ports": [{"port": 80}]}, {"ports": [{"port": 80, "protocol": "TCP"}]}, id="port"),
    ],
)
def test_the_same(spec: Any, stored: Any) -> None:
    desired = applied(spec)
    assert not differs(desired, seen(desired, stored))


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        pytest.param({"a": 1}, {"a": 2}, id="value"),
        pytest.param({"a": 1}, {}, id="missing"),
        pytest.param({"a": {"b": 1}}, {"a": 3}, id="other type"),
        pytest.param({"args": ["a", "b"]}, {"args": ["a", "b", "c"]}, id="longer arguments"),
        pytest.param({"args": ["a", "b"]}, {"args": ["b", "a"]}, id="order of arguments"),
        pytest.param({"env": [{"name": "a"}, {"name": "b"}]}, {"env": [{"name": "a"}]}, id="item gone"),
        pytest.param({"env": [{"name": "a", "v": 1}]}, {"env": [{"name": "a", "v": 2}]}, id="item edited"),
        pytest.param({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a"}, {"key": "b"}]}, id="whole list"),
        pytest.param({"cpu": "1"}, {"cpu": "1001m"}, id="another quantity"),
        pytest.param({"rules": [{"to": []}]}, {"rules": []}, id="rule gone"),
    ],
)
def test_edited(spec: Any, stored: Any) -> None:
    desired = applied(spec)
    assert differs(desired, seen(desired, stored))


def test_others_may_add_items_where_kubernetes_merges_a_list() -> None:
    desired = applied({"env": [{"name": "a"}]}, "Deployment")
    assert not differs(desired, seen(desired, {"env": [{"name": "b"}, {"name": "a", "v": 1}]}))
    desired = applied({"ports": [{"containerPort": 80}]}, "Deployment")
    assert not differs(desired, seen(desired, {"ports": [{"containerPort": 80, "protocol": "TCP"}]}))
    assert differs(desired, seen(desired, {"ports": [{"containerPort": 80, "protocol": "UDP"}]}))
    spread = [{"topologyKey": "zone", "whenUnsatisfiable": when, "maxSkew": 1} for when in ("DoNotSchedule", "X")]
    desired = applied({"topologySpreadConstraints": spread}, "Deployment")
    assert not differs(desired, seen(desired, {"topologySpreadConstraints": spread[::-1]}))


@pytest.mark.parametrize(
    ("kind", "field"),
    [("NetworkPolicy", "ports"), ("ModelServer", "containers"), ("ServiceAccount", "imagePullSecrets")],
)
def test_a_list_that_kubernetes_does_not_merge_is_one_field(kind: str, field: str) -> None:
    desired = applied({field: [{"name": "a", "port": 80}]}, kind)
    assert differs(desired, seen(desired, {field: [{"name": "a", "port": 80}, {"name": "b", "port": 22}]}))


SELECTOR = {"f:spec": {"f:selector": {}}}
IMAGE = {"f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:name": {}, "f:image": {}}}}}
PORT = {"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {"f:targetPort": {}}}}}


def owner(fields: Any, manager: str = "kubegym", operation: str = "Apply", subresource: str = "") -> Object:
    return {"manager": manager, "operation": operation, "subresource": subresource, "fieldsV1": fields}


@pytest.mark.parametrize(
    ("spec", "managed", "taken"),
    [
        pytest.param({"selector": {"a": "b"}}, [owner(SELECTOR)], False, id="ours"),
        pytest.param({"selector": {"a": "b"}}, [owner(SELECTOR), owner(SELECTOR, "flux")], False, id="shared"),
        pytest.param({"selector": {"a": "b"}}, [owner({}), owner(SELECTOR, "kubectl", "Update")], True, id="a map"),
        pytest.param({"selector": {"a": "b"}}, [owner(SELECTOR, "kubegym", "Update")], True, id="by update"),
        pytest.param({"x": 1}, [owner(SELECTOR, "kubectl")], False, id="what we do not say"),
        pytest.param({"x": 1}, [owner({"f:spec": {"f:x": {}}}, "hpa", "Update", "status")], False, id="its status"),
        pytest.param({"containers": [{"name": "a", "image": "i"}]}, [owner(IMAGE, "kubectl")], True, id="in an item"),
        pytest.param({"containers": [{"name": "b", "image": "i"}]}, [owner(IMAGE, "kubectl")], False, id="their item"),
        pytest.param({"ports": [{"port": 80, "targetPort": 1}]}, [owner(PORT, "kubectl")], True, id="default in a key"),
    ],
)
def test_who_owns_a_field_tells_whether_it_was_edited(spec: Any, managed: list[Object], taken: bool) -> None:
    assert taken_over(applied(spec), managed, "kubegym") is taken


def test_another_desire_differs_although_all_of_it_is_there() -> None:
    before = applied({"a": 1, "b": 2})
    assert differs(applied({"a": 1}), before), "b has to go"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab1m", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a", "b"]), inner, max_size=3),
    max_leaves=12,
)


@given(_JSON)
def test_what_was_just_applied_never_differs(spec: Any) -> None:
    desired = applied(spec)
    assert not differs(desired, copy.deepcopy(desired))


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1), st.sampled_from("abcd"))
def test_only_what_is_desired_is_compared(spec: dict[str, int], edited: str) -> None:
    desired = applied(spec)
    assert differs(desired, seen(desired, {**spec, edited: 10})) == (edited in spec)
