"""What an API server promises, as the operator relies on it: one suite for the real one and for its twin in memory.

A test module subclasses ``KubeContract`` and gives the fixtures ``api`` (a KubeApi that serves Widgets) and ``space``
(a namespace of the test's own).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kubegym_operator.kube.errors import AlreadyExists, Conflict, KindNotServed, NotFound
from kubegym_operator.kube.kinds import KindInfo
from kubegym_operator.kube.protocol import Kind, KubeApi, Object
from kubegym_operator.reconcile.trim import SOLE_REPLICAS, trimmed

CONFIG_MAP = Kind("v1", "ConfigMap")
DEPLOYMENT = Kind("apps/v1", "Deployment")
JOB = Kind("batch/v1", "Job")
WIDGET = Kind("testbed.dev/v1", "Widget")

WIDGET_INFO = KindInfo(WIDGET, replicas=("spec", "replicas"))
WIDGET_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.testbed.dev"},
    "spec": {
        "group": "testbed.dev",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                            "status": {
                                "type": "object",
                                "properties": {
                                    "replicas": {"type": "integer"},
                                    "conditions": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["type"],
                                        "items": {
                                            "type": "object",
                                            "required": ["type"],
                                            "properties": {"type": {"type": "string"}, "status": {"type": "string"}},
                                        },
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}


def named(kind: Kind, namespace: str, name: str = "one", **fields: Any) -> Object:
    metadata = {"name": name, "namespace": namespace, **fields.pop("metadata", {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}


def deployment(namespace: str, **spec: Any) -> Object:
    """A Deployment whose selector no pod meets and that wants none unless told."""
    labels = {"app": "one"}
    containers = [{"name": "main", "image": "none", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    return named(DEPLOYMENT, namespace, spec={"selector": {"matchLabels": labels}, "template": template, **spec})


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 300.0) -> None:
    """Wait for something that others do; the limit is far above what it takes."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - the condition lies on a server
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {seconds:.0f} s: {what}")


class KubeContract:
    """The suite."""

    async def test_what_is_created_can_be_read(self, api: KubeApi, space: str) -> None:
        made = await api.create(named(CONFIG_MAP, space, data={"a": "1"}))
        found = await api.get(CONFIG_MAP, space, "one")
        assert found == made
        assert made["data"] == {"a": "1"}
        assert made["metadata"]["uid"]
        assert made["metadata"]["resourceVersion"]
        assert (made["apiVersion"], made["kind"]) == CONFIG_MAP

    async def test_what_is_absent_is_none(self, api: KubeApi, space: str) -> None:
        assert await api.get(CONFIG_MAP, space, "none") is None

    async def test_a_name_is_taken_once(self, api: KubeApi, space: str) -> None:
        await api.create(named(CONFIG_MAP, space))
        with pytest.raises(AlreadyExists) as caught:
            await api.create(named(CONFIG_MAP, space))
        assert not caught.value.retryable

    async def test_a_list_holds_what_its_labels_select(self, api: KubeApi, space: str) -> None:
        for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
            await api.create(named(CONFIG_MAP, space, name, metadata={"labels": {"color": color, "n": name}}))
        mine = await api.list(CONFIG_MAP, space, labels={"color": "red"})
        assert [one["metadata"]["name"] for one in mine] == ["a", "c"]
        assert all((one["apiVersion"], one["kind"]) == CONFIG_MAP for one in mine)
        assert {one["metadata"]["name"] for one in await api.list(CONFIG_MAP, space, labels="color!=red,n")} == {"b"}
        everywhere = await api.list(CONFIG_MAP, labels={"n": "b"})
        assert (space, "b") in {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in everywhere}

    async def test_applying_makes_an_object_and_then_nothing(self, api: KubeApi, space: str) -> None:
        first = await api.apply(named(CONFIG_MAP, space, data={"a": "1"}), manager="kubegym")
        again = await api.apply(named(CONFIG_MAP, space, data={"a": "1"}), manager="kubegym")
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_a_field_left_out_of_a_later_apply_goes(self, api: KubeApi, space: str) -> None:
        await api.apply(named(CONFIG_MAP, space, data={"a": "1", "b": "2"}), manager="kubegym")
        await api.apply(named(CONFIG_MAP, space, data={"a": "3"}), manager="kubegym")
        found = await api.get(CONFIG_MAP, space, "one")
        assert found is not None
        assert found["data"] == {"a": "3"}

    async def test_a_field_of_two_managers_stays(self, api: KubeApi, space: str) -> None:
        await api.apply(named(CONFIG_MAP, space, data={"a": "1", "b": "2"}), manager="kubegym")
        await api.apply(named(CONFIG_MAP, space, data={"b": "2"}), manager="another")
        await api.apply(named(CONFIG_MAP, space, data={"a": "1"}), manager="kubegym")
        found = await api.get(CONFIG_MAP, space, "one")
        assert found is not None
        assert found["data"] == {"a": "1", "b": "2"}

    async def test_a_field_edited_by_hand_is_put_back_by_force(self, api: KubeApi, space: str) -> None:
        wanted = named(CONFIG_MAP, space, data={"a": "1"})
        await api.apply(wanted, manager="kubegym")
        await api.patch(CONFIG_MAP, space, "one", {"data": {"a": "9", "mine": "x"}})
        made = await api.apply(wanted, manager="kubegym")
        assert made["data"] == {"a": "1", "mine": "x"}

    async def test_leaving_out_replicas_that_only_we_own_resets_them(self, api: KubeApi, space: str) -> None:
        made = await api.apply(deployment(space, replicas=4), manager="kubegym")
        assert made["spec"]["replicas"] == 4
        assert trimmed(made)["metadata"][SOLE_REPLICAS] is True
        made = await api.apply(deployment(space), manager="kubegym")
        assert made["spec"]["replicas"] == 1

    async def test_replicas_that_another_manager_claims_stay(self, api: KubeApi, space: str) -> None:
        made = await api.apply(deployment(space, replicas=4), manager="kubegym")
        while True:
            version = {"resourceVersion": made["metadata"]["resourceVersion"]}
            claim = named(DEPLOYMENT, space, metadata=version, spec={"replicas": 4})
            try:
                made = await api.apply(claim, manager="second")
                break
            except Conflict:  # the Deployment controller was faster
                found = await api.get(DEPLOYMENT, space, "one")
                assert found is not None
                made = found
        assert SOLE_REPLICAS not in trimmed(made)["metadata"]
        made = await api.apply(deployment(space), manager="kubegym")
        assert made["spec"]["replicas"] == 4

    async def test_scaled_replicas_stay(self, api: KubeApi, space: str) -> None:
        await api.apply(deployment(space, replicas=2), manager="kubegym")
        await api.scale(DEPLOYMENT, space, "one", 3)
        made = await api.apply(deployment(space, paused=True), manager="kubegym")
        assert made["spec"]["replicas"] == 3
        assert made["spec"]["paused"] is True
        assert SOLE_REPLICAS not in trimmed(made)["metadata"]

    async def test_lists_of_named_items_are_merged_by_name(self, api: KubeApi, space: str) -> None:
        wanted = deployment(space, replicas=0)
        await api.apply(wanted, manager="kubegym")
        theirs = copy.deepcopy(wanted)
        container = theirs["spec"]["template"]["spec"]["containers"][0]
        container["env"] = [{"name": "C", "value": "3"}]
        await api.apply(theirs, manager="another")
        ours = copy.deepcopy(wanted)
        ours["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "5"}]
        made = await api.apply(ours, manager="kubegym")
        env = made["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {one["name"]: one["value"] for one in env} == {"A": "5", "C": "3"}

    async def test_a_dry_run_shows_and_stores_nothing(self, api: KubeApi, space: str) -> None:
        made = await api.apply(named(CONFIG_MAP, space, data={"a": "1"}), manager="kubegym", dry_run=True)
        assert made["data"] == {"a": "1"}
        assert await api.get(CONFIG_MAP, space, "one") is None

    async def test_an_apply_may_mean_one_version(self, api: KubeApi, space: str) -> None:
        made = await api.apply(named(CONFIG_MAP, space, data={"a": "1"}), manager="kubegym")
        version = {"resourceVersion": made["metadata"]["resourceVersion"]}
        await api.patch(CONFIG_MAP, space, "one", {"data": {"b": "2"}})
        with pytest.raises(Conflict):
            await api.apply(named(CONFIG_MAP, space, data={"a": "2"}, metadata=version), manager="kubegym")

    async def test_status_and_spec_are_written_apart(self, api: KubeApi, space: str) -> None:
        await api.apply(named(WIDGET, space, spec={"size": 1}, status={"replicas": 9}), manager="kubegym")
        made = await api.apply_status(named(WIDGET, space, spec={"size": 7}, status={"replicas": 2}), manager="status")
        assert made["spec"] == {"size": 1}
        assert made["status"] == {"replicas": 2}
        made = await api.apply(named(WIDGET, space, spec={"size": 3}), manager="kubegym")
        assert made["spec"] == {"size": 3}
        assert made["status"] == {"replicas": 2}
        made = await api.apply_status(named(WIDGET, space, status={"replicas": 2}), manager="status")
        assert made["status"] == {"replicas": 2}

    async def test_only_a_change_of_what_is_wanted_is_a_new_generation(self, api: KubeApi, space: str) -> None:
        made = await api.apply(named(WIDGET, space, spec={"size": 1}), manager="kubegym")
        assert made["metadata"]["generation"] == 1
        made = await api.apply_status(named(WIDGET, space, status={"replicas": 2}), manager="status")
        assert made["metadata"]["generation"] == 1
        made = await api.patch(WIDGET, space, "one", {"metadata": {"labels": {"a": "b"}}})
        assert made["metadata"]["generation"] == 1
        made = await api.patch(WIDGET, space, "one", {"spec": {"size": 2}})
        assert made["metadata"]["generation"] == 2

    async def test_managers_own_the_conditions_they_set(self, api: KubeApi, space: str) -> None:
        await api.create(named(WIDGET, space, spec={}))
        ours = [{"type": "Ready", "status": "True"}, {"type": "Serving", "status": "True"}]
        await api.apply_status(named(WIDGET, space, status={"conditions": ours}), manager="status")
        theirs = [{"type": "Approved", "status": "True"}]
        await api.apply_status(named(WIDGET, space, status={"conditions": theirs}), manager="another")
        made = await api.apply_status(named(WIDGET, space, status={"conditions": ours[:1]}), manager="status")
        assert {one["type"] for one in made["status"]["conditions"]} == {"Ready", "Approved"}

    async def test_a_status_makes_no_object(self, api: KubeApi, space: str) -> None:
        with pytest.raises(NotFound):
            await api.apply_status(named(WIDGET, space, status={"replicas": 1}), manager="status")

    async def test_a_patch_changes_what_it_names(self, api: KubeApi, space: str) -> None:
        made = await api.create(named(CONFIG_MAP, space, data={"a": "1", "b": "2"}))
        made = await api.patch(CONFIG_MAP, space, "one", {"data": {"a": None, "c": "3"}})
        assert made["data"] == {"b": "2", "c": "3"}

    async def test_a_patch_may_mean_one_version(self, api: KubeApi, space: str) -> None:
        made = await api.create(named(CONFIG_MAP, space, data={"a": "1"}))
        version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
        await api.patch(CONFIG_MAP, space, "one", {**version, "data": {"a": "2"}})
        with pytest.raises(Conflict) as caught:
            await api.patch(CONFIG_MAP, space, "one", {**version, "data": {"a": "3"}})
        assert caught.value.retryable

    async def test_only_what_exists_is_patched_or_scaled(self, api: KubeApi, space: str) -> None:
        with pytest.raises(NotFound):
            await api.patch(CONFIG_MAP, space, "none", {"data": {}})
        with pytest.raises(NotFound):
            await api.scale(DEPLOYMENT, space, "none", 1)

    async def test_a_job_starts_unless_it_says_otherwise(self, api: KubeApi, space: str) -> None:
        containers = [{"name": "main", "image": "none"}]
        template = {"spec": {"restartPolicy": "Never", "containers": containers}}
        made = await api.create(named(JOB, space, spec={"suspend": True, "template": template}))
        assert made["spec"]["suspend"] is True
        made = await api.patch(JOB, space, "one", {"spec": {"suspend": False}})
        assert made["spec"]["suspend"] is False
        assert made["spec"]["parallelism"] == 1

    async def test_scaling_a_custom_kind(self, api: KubeApi, space: str) -> None:
        await api.create(named(WIDGET, space, spec={"replicas": 1}))
        await api.scale(WIDGET, space, "one", 5)
        found = await api.get(WIDGET, space, "one")
        assert found is not None
        assert found["spec"]["replicas"] == 5

    async def test_deleting_says_whether_there_was_something(self, api: KubeApi, space: str) -> None:
        made = await api.create(named(CONFIG_MAP, space))
        assert not await api.delete(CONFIG_MAP, space, "one", uid="6f1e2d3c-0000-4000-8000-000000000000")
        assert await api.get(CONFIG_MAP, space, "one") is not None
        assert await api.delete(CONFIG_MAP, space, "one", uid=made["metadata"]["uid"])
        assert await api.get(CONFIG_MAP, space, "one") is None
        assert not await api.delete(CONFIG_MAP, space, "one")

    async def test_an_object_with_a_finalizer_waits(self, api: KubeApi, space: str) -> None:
        await api.create(named(CONFIG_MAP, space, metadata={"finalizers": ["testbed.dev/wait"]}))
        assert await api.delete(CONFIG_MAP, space, "one")
        found = await api.get(CONFIG_MAP, space, "one")
        assert found is not None
        assert found["metadata"]["deletionTimestamp"]
        await api.patch(CONFIG_MAP, space, "one", {"metadata": {"finalizers": None}})
        assert await api.get(CONFIG_MAP, space, "one") is None

    async def test_children_go_with_their_owner(self, api: KubeApi, space: str) -> None:
        owner = await api.create(named(CONFIG_MAP, space))  # the collector hears of custom kinds within half a minute
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "one",
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        await api.apply(named(CONFIG_MAP, space, "child", metadata={"ownerReferences": [reference]}), manager="kubegym")
        await api.create(named(CONFIG_MAP, space, "other"))
        await api.delete(CONFIG_MAP, space, "one")

        async def gone() -> bool:
            return await api.get(CONFIG_MAP, space, "child") is None

        await eventually(gone, "the child is collected")
        assert await api.get(CONFIG_MAP, space, "other") is not None

    async def test_a_kind_that_is_not_installed(self, api: KubeApi, space: str) -> None:
        absent = Kind("absent.testbed.dev/v1", "Nothing")
        assert await api.serves(WIDGET)
        assert not await api.serves(absent)
        assert not await api.serves(Kind("apps/v1", "Nothing"))
        with pytest.raises(KindNotServed):
            await api.get(absent, space, "one")
        with pytest.raises(KindNotServed):
            await api.list(absent, space)
        with pytest.raises(KindNotServed):
            await api.apply(named(absent, space), manager="kubegym")
