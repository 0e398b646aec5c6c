from __future__ import annotations

from typing import Any

import pytest

from kubegym_operator.kube.protocol import Kind, Object, ObjectKey
from kubegym_operator.reconcile.cache import Cache, Change

POD = Kind("v1", "Pod")
JOB = Kind("batch/v1", "Job")


def obj(name: str = "a", version: int = 1, uid: str | None = None, **fields: Any) -> Object:
    metadata = {
        "name": name,
        "namespace": fields.pop("namespace", "space"),
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        **fields.pop("metadata", {}),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **fields}


@pytest.fixture
def cache() -> Cache:
    return Cache()


def test_what_is_put_can_be_read_and_belongs_to_the_reader(cache: Cache) -> None:
    assert cache.put(obj(spec={"a": 1}))
    found = cache.get(JOB, "space", "a")
    assert found is not None
    found["spec"]["a"] = 2
    again = cache.get(JOB, "space", "a")
    assert again is not None
    assert again["spec"] == {"a": 1}
    assert cache.get(JOB, "other", "a") is None
    assert cache.get(POD, "space", "a") is None
    assert len(cache) == 1


def test_older_news_is_refused(cache: Cache) -> None:
    cache.put(obj(version=10, spec={"a": 10}))
    assert not cache.put(obj(version=9, spec={"a": 9}))
    assert not cache.put(obj(version=10, spec={"a": 11}))
    found = cache.get(JOB, "space", "a")
    assert found is not None
    assert found["spec"] == {"a": 10}
    assert cache.put(obj(version=100, spec={"a": 100}))  # by number: as text it would be older than 9


def test_a_late_list_does_not_bring_back_what_was_deleted(cache: Cache) -> None:
    cache.put(obj(version=5))
    assert cache.remove(obj(version=8))
    assert not cache.put(obj(version=6))
    assert cache.get(JOB, "space", "a") is None
    assert cache.put(obj(version=7, uid="another"))


def test_an_object_whose_label_was_put_back_comes_back(cache: Cache) -> None:
    cache.put(obj(version=5))
    cache.remove(obj(version=8))  # to a watch with a selector, a lost label is a deletion
    assert cache.put(obj(version=9))


def test_deleting_an_earlier_object_leaves_its_successor(cache: Cache) -> None:
    cache.put(obj(version=9, uid="second"))
    assert not cache.remove(obj(version=8, uid="first"))
    assert cache.get(JOB, "space", "a") is not None


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["a", "b", "c"]),
        ({"namespace": "space"}, ["a", "b"]),
        ({"namespace": "nowhere"}, []),
        ({"owner_uid": "o1"}, ["a", "c"]),
        ({"owner_uid": "o1", "namespace": "space"}, ["a"]),
        ({"owner_uid": "nobody"}, []),
        ({"labels": {"kubegym.dev/rolloutjob-name": "x"}}, ["a", "b"]),
        ({"labels": {"kubegym.dev/rolloutjob-name": "x", "color": "red"}}, ["a"]),
        ({"labels": "color!=red"}, ["b", "c"]),
        ({"labels": {"color": "red"}, "owner_uid": "o1"}, ["a"]),
    ],
)
def test_lists_meet_all_conditions(cache: Cache, query: dict[str, Any], names: list[str]) -> None:
    owner = {"ownerReferences": [{"uid": "o1"}]}
    cache.put(obj("a", metadata={**owner, "labels": {"kubegym.dev/rolloutjob-name": "x", "color": "red"}}))
    cache.put(obj("b", metadata={"labels": {"kubegym.dev/rolloutjob-name": "x"}}))
    cache.put(obj("c", namespace="zoo", metadata=owner))
    found = cache.list(JOB, query.pop("namespace", None), **query)
    assert [one["metadata"]["name"] for one in found] == names


def test_indices_follow_changes_and_removals() -> None:
    cache = Cache({"color": lambda one: [one["spec"]["color"]] if "spec" in one else []})
    cache.put(obj("a", 1, spec={"color": "red"}))
    cache.put(obj("b", 2, spec={"color": "red"}))
    assert cache.find("color", "red") == (ObjectKey(JOB, "space", "a"), ObjectKey(JOB, "space", "b"))
    cache.put(obj("a", 3, spec={"color": "blue"}))
    assert cache.find("color", "red") == (ObjectKey(JOB, "space", "b"),)
    assert cache.find("color", "blue") == (ObjectKey(JOB, "space", "a"),)
    cache.remove(obj("b", 4))
    assert cache.find("color", "red") == ()
    assert cache.list(JOB, owner_uid="none") == []


def test_kinds_that_nobody_watches_are_not_kept(cache: Cache) -> None:
    claim = {**obj(), "apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    assert not cache.put(claim)
    assert len(cache) == 0


def test_listeners_hear_of_every_change_and_of_nothing_else(cache: Cache) -> None:
    heard: list[Change] = []
    cache.listen(heard.append)
    cache.put(obj(version=1))
    cache.put(obj(version=1))
    cache.put(obj(version=2), own=True)
    cache.remove(obj(version=3))
    cache.remove(obj(version=3))
    assert [(change.gone, change.own) for change in heard] == [(False, False), (False, True), (True, False)]
    assert heard[-1].obj["metadata"]["resourceVersion"] == "2"


def test_counts_and_keys_are_of_one_kind(cache: Cache) -> None:
    cache.put(obj("a"))
    cache.put(obj("b", namespace="other"))
    assert cache.count(JOB) == 2
    assert cache.keys(JOB) == {ObjectKey(JOB, "space", "a"), ObjectKey(JOB, "other", "b")}
    assert cache.count(POD) == 0
    assert cache.version(ObjectKey(JOB, "space", "a")) == ("uid-a", 1)
    assert cache.version(ObjectKey(JOB, "space", "x")) is None


def test_nothing_is_left_of_what_was_removed(cache: Cache) -> None:
    for number in range(100):
        made = obj(f"n{number}", metadata={"labels": {"kubegym.dev/rolloutjob-name": str(number)}})
        cache.put(made)
        cache.remove(made)
    assert cache._found == {}
    assert len(cache) == 0
