"""The life of an operator: elected, quiet when nothing changes, and none the worse for being killed."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from testbed.k8s.cluster import Cluster
from testbed.k8s.controllers import LWS, definitions
from testbed.k8s.process import until

from .conftest import GROUP_VERSION, Space, StartOperator


def test_a_steady_state_costs_no_write(operator: StartOperator, space: Space) -> None:
    space.environment("one")
    process = operator()
    space.environment("two")
    space.await_suspended("one", "two")
    wrote = space.await_quiet(process)
    children = {write.partition(" ")[2] for write in wrote if "status" not in write}
    assert len(wrote) <= 2 * 6 + len(children)
    assert process.get("/healthz")[0] == 200
    assert process.metric("kubegym_leader") == 1
    assert process.metric("kubegym_environment_condition", name="one", type="Suspended") == 1
    assert process.metric("kubegym_api_requests_total", verb="apply", kind="Service") > 0


def test_it_ends_cleanly_and_lets_the_lease_go(operator: StartOperator, space: Space) -> None:
    process = operator(lease_duration_seconds=600, lease_renew_seconds=500)
    assert process.terminate() == 0
    assert process.fresh_log.rstrip().endswith("stopped")
    lease = space.stored("kubegym-operator", "Lease", "coordination.k8s.io/v1")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


def test_kill_and_restart_change_nothing(operator: StartOperator, space: Space) -> None:
    process = operator()
    for number in range(5):
        space.environment(f"env-{number}")
    space.await_suspended(*(f"env-{number}" for number in range(5)))
    before = space.await_quiet(process)
    process.kill()
    again = operator(lease_name="after-the-kill")
    assert space.await_quiet(again) == before


def test_it_may_be_killed_in_the_middle(operator: StartOperator, space: Space) -> None:
    names = []
    for life in range(4):
        for name in (f"env-{life}-a", f"env-{life}-b"):  # so that there is work, whatever the last life has got done
            space.environment(name)
            names.append(name)
        wrote = len(space.writes())
        process = operator(wait=False, lease_name=f"life-{life}")
        space.await_writes(wrote + 4 * life)
        process.kill()
    last = operator(lease_name="last-life")
    space.await_suspended(*names)
    space.await_quiet(last)
    for name in names:
        deployment = space.stored(f"{name}-agent", "Deployment", "apps/v1")
        assert deployment is not None
        assert deployment["metadata"]["generation"] == 1
        assert deployment["spec"]["replicas"] == 0


def test_a_child_edited_or_deleted_by_hand_is_repaired(operator: StartOperator, space: Space, cluster: Cluster) -> None:
    space.environment("one")
    process = operator(resync_seconds=600)
    space.await_suspended("one")
    until(lambda: space.stored("one-agent", "Service", "v1") is not None, "the children are there")
    edited = {"spec": {"selector": {"app.kubernetes.io/component": "nobody"}}}
    cluster.api.patch("v1", "Service", "one-agent", edited, space.name)

    def repaired() -> bool:
        service = space.stored("one-agent", "Service", "v1")
        return service is not None and service["spec"]["selector"]["app.kubernetes.io/component"] == "agent"

    until(repaired, "the selector is put back")
    cluster.api.delete("apps/v1", "Deployment", "one-agent", space.name)
    until(lambda: space.stored("one-agent", "Deployment", "apps/v1") is not None, "the Deployment is back")
    assert process.running


def test_a_kind_that_is_installed_later_is_used_and_watched(
    operator: StartOperator, space: Space, cluster: Cluster, tmp_path: Path
) -> None:
    server = {"engine": "vllm", "source": {"uri": "pvc://weights"}, "parallelism": {"tensor": 2, "nodes": 2}}
    metadata = {"name": "wide"}
    spec = {**server, "suspend": True}
    cluster.apply({"apiVersion": GROUP_VERSION, "kind": "ModelServer", "metadata": metadata, "spec": spec}, space.name)
    process = operator(resync_seconds=3600)

    def stalled() -> bool:
        status = (space.stored("wide", "ModelServer") or {}).get("status") or {}
        return any(one["reason"] == "LeaderWorkerSetNotInstalled" for one in status.get("conditions") or ())

    until(stalled, "it says what is missing")
    groups = tmp_path / "lws.json"
    groups.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions(LWS)}))
    cluster.kubectl("apply", "--server-side", "-f", str(groups))
    try:
        until(lambda: _group(space) is not None, "it is made")

        def watched() -> bool:
            cluster.kubectl(
                "annotate", "leaderworkerset/wide-group", f"at={time.time()}", "--overwrite", namespace=space.name
            )
            return process.metric("kubegym_watch_events_total", kind="LeaderWorkerSet") > 0

        until(watched, "it is watched")
        first = (_group(space) or {})["metadata"]["uid"]
        cluster.kubectl("delete", "leaderworkerset/wide-group", namespace=space.name)
        until(lambda: (_group(space) or {"metadata": {"uid": first}})["metadata"]["uid"] != first, "it is made again")
    finally:
        cluster.kubectl("delete", "-f", str(groups))
        until(lambda: not re.search("leaderworkersets", cluster.kubectl("api-resources", "-o", "name")), "it is gone")


def _group(space: Space) -> dict[str, Any] | None:
    try:
        return space.stored("wide-group", "LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1")
    except KeyError:
        return None


def test_what_is_not_installed_is_done_without(operator: StartOperator, space: Space, cluster: Cluster) -> None:
    kinds = cluster.kubectl("api-resources", "-o", "name")
    assert not re.search(r"leaderworkersets|clusterqueues|servicemonitors", kinds)
    space.environment("one")
    operator()
    space.await_suspended("one")
