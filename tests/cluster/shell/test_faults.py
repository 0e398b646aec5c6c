"""What may happen to an operator and its API server, and harms nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.tcp_relay import Relay

from .conftest import Space, StartOperator

# Short enough to be waited for, long enough for a machine under load to keep it.
SHORT = {"lease_duration_seconds": 40, "lease_renew_seconds": 30, "lease_retry_seconds": 0.5}


def test_of_two_operators_one_works_and_the_other_takes_over(operator: StartOperator, space: Space) -> None:
    first = operator()
    second = operator(wait=False, lease_retry_seconds=0.5)
    assert second.get("/readyz")[0] == 200
    assert second.get("/healthz")[0] == 200
    space.environment("one")
    space.await_suspended("one")
    assert second.metric("kubegym_leader") == 0
    assert second.metric("kubegym_reconcile_total") == 0
    before = space.await_quiet(first)
    assert space.writes(first) == before
    first.kill()
    space.free_lease()
    second.await_leading()
    assert space.await_quiet(second) == before
    space.environment("two")
    space.await_suspended("two")


def test_a_leader_that_hung_writes_nothing_when_it_wakes(operator: StartOperator, space: Space) -> None:
    first = operator(**SHORT)
    second = operator(wait=False, lease_retry_seconds=0.5)
    space.environment("one")
    space.await_suspended("one")
    space.await_quiet(first)
    first.pause()
    before = space.writes(first)
    assert before
    space.environment("two")
    second.await_leading()
    space.await_suspended("two")
    space.environment("one", rolloutTimeoutSeconds=77)  # the old leader's watch brings this when it wakes
    first.resume()
    until(lambda: not first.running, "the old leader ends")
    space.await_quiet(second)
    assert space.writes(first) == before
    assert "the process ends" in first.log


def test_the_api_server_may_go_away(operator: StartOperator, space: Space, cluster: Cluster) -> None:
    space.environment("one")
    process = operator(lease_duration_seconds=600, lease_renew_seconds=500)
    space.await_suspended("one")
    before = space.await_quiet(process)
    failures = process.metric("kubegym_api_requests_total", code="unavailable")
    with cluster.plane.without("kube-apiserver"):
        until(
            lambda: process.metric("kubegym_api_requests_total", code="unavailable") > failures,
            "it has noticed",
        )
        assert process.get("/healthz")[0] == 200
    space.environment("two")
    space.await_suspended("two")
    after = space.await_quiet(process)
    assert not [write for write in after[len(before) :] if "/one" in write]
    assert process.running


def test_an_api_server_that_hangs_costs_the_lease_and_a_restart_goes_on(
    operator: StartOperator, space: Space, cluster: Cluster
) -> None:
    space.environment("one")
    process = operator(**SHORT)
    space.await_suspended("one")
    before = space.await_quiet(process)
    with cluster.plane.hanging("kube-apiserver"):
        until(lambda: not process.running, "it ends, for another may lead")
    assert "could not be renewed in time" in process.log
    space.free_lease()
    process.start().await_leading()
    assert space.await_quiet(process) == before


@pytest.fixture
def relay(cluster: Cluster) -> Iterator[Relay]:
    address = urlsplit(cluster.api.server)
    relay = Relay(address.hostname or "127.0.0.1", address.port or 443)
    yield relay
    relay.close()


@pytest.fixture
def relayed(cluster: Cluster, relay: Relay, tmp_path: Path) -> Path:
    """A kubeconfig that leads through the relay."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{relay.port}"
    path = tmp_path / "relayed.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def test_watches_that_die_without_a_word_are_noticed_by_the_resync(
    operator: StartOperator, space: Space, relay: Relay, relayed: Path
) -> None:
    process = operator(relayed, request_seconds=2, resync_seconds=2)
    space.environment("one")
    space.await_suspended("one")
    space.await_watching(process, "one")
    space.await_quiet(process)
    assert process.metric("kubegym_watch_missed_total") == 0
    assert relay.freeze() > 0
    space.environment("two")  # no watch tells of it
    space.await_suspended("two")
    until(lambda: process.metric("kubegym_watch_missed_total", kind="GymEnvironment") > 0, "it says so")
    until(lambda: process.metric("kubegym_watch_restarts_total") > 0, "watching begins anew")
    space.await_watching(process, "two")


def test_rights_that_are_taken_away_and_given_back(
    operator: StartOperator, space: Space, cluster: Cluster, namespace: str
) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}
    role = {**binding, "kind": "Role", "rules": rules}
    role = {key: role[key] for key in ("apiVersion", "kind", "metadata", "rules")}
    cluster.apply([account, role, binding], namespace)
    process = operator(cluster.kubeconfig_of(namespace, "operator"))
    space.environment("one")
    space.await_suspended("one")
    cluster.api.delete("rbac.authorization.k8s.io/v1", "RoleBinding", "operator", namespace)
    until(lambda: process.metric("kubegym_api_requests_total", code="403") > 0, "it is refused")
    space.environment("two")
    cluster.apply(binding, namespace)
    space.await_suspended("two")
    space.await_quiet(process)
    assert process.running
    space.await_watching(process, "two")
    space.environment("three")
    space.await_suspended("three")
