"""The real operator, as a process, on a real API server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testbed.k8s.api import Object, Refused
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.operator_process import OperatorProcess

CRDS = sorted((Path(__file__).resolve().parents[3] / "crds").glob("*.yaml"))
GROUP_VERSION = "kubegym.dev/v1alpha1"
_numbers = itertools.count(1)

StartOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    """Our kinds are served."""
    for path in CRDS:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))

    def served() -> bool:
        try:
            for kind in ("GymEnvironment", "ModelServer", "RolloutJob"):
                cluster.api.list(GROUP_VERSION, kind)
        except (Refused, KeyError):
            return False
        return True

    until(served, "our kinds are served")


@pytest.fixture
def operator(cluster: Cluster, crds: None, namespace: str, tmp_path: Path) -> Iterator[StartOperator]:
    """Starts operators for the test's namespace; they end with the test.

    They resync every second, and have time to lose their lease, unless a test says otherwise.
    """
    started: list[OperatorProcess] = []

    def start(kubeconfig: Path | None = None, *, wait: bool = True, **settings: Any) -> OperatorProcess:
        defaults = {
            "watch_namespaces": [namespace],
            "lease_namespace": namespace,
            "resync_seconds": 1,
            "lease_duration_seconds": 90,
            "lease_renew_seconds": 60,
        }
        process = OperatorProcess(kubeconfig or cluster.kubeconfig, tmp_path, **{**defaults, **settings})
        started.append(process)
        process.start()
        return process.await_leading() if wait else process

    yield start
    for process in started:
        process.resume()
        process.kill()


class Space:
    """A test's namespace, and what is looked at in it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def environment(self, name: str, **spec: Any) -> Object:
        """Apply an environment that is suspended (all children, no pods) unless told otherwise."""
        endpoint = {"baseUrl": "https://models.example.com/v1", "model": "policy"}
        full = {"suspend": True, "models": {"policy": {"endpoint": endpoint}}, **spec}
        obj = {"apiVersion": GROUP_VERSION, "kind": "GymEnvironment", "metadata": {"name": name}, "spec": full}
        self.cluster.apply(obj, self.name)
        return obj

    def stored(self, name: str, kind: str = "GymEnvironment", version: str = GROUP_VERSION) -> Object | None:
        """An object as it is."""
        return self.cluster.api.get(version, kind, name, self.name)

    def condition(self, name: str, type_: str) -> Object:
        """A condition of an environment; empty where it has none."""
        found = self.stored(name) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return next((one for one in conditions if one["type"] == type_), {})

    def await_suspended(self, *names: str) -> None:
        """Wait until environments say that they are suspended, in their current generation."""
        for name in names:
            until(partial(self._is_suspended, name), f"{name} is suspended")

    def _is_suspended(self, name: str) -> bool:
        found = self.stored(name) or {}
        status, metadata = found.get("status") or {}, found.get("metadata") or {}
        current = bool(metadata) and status.get("observedGeneration") == metadata["generation"]
        return current and self.condition(name, "Suspended").get("status") == "True"

    def writes(self, by: OperatorProcess | None = None) -> list[str]:
        """What operators, or one of them, wrote into this namespace so far, without leases."""
        return [
            f"{event['verb']} {event['objectRef']['resource']}/{event['objectRef'].get('name', '')}"
            for event in self.cluster.plane.writes(
                f"kubegym-operator ({by.name})" if by is not None else "kubegym-operator"
            )
            if event.get("objectRef", {}).get("namespace") == self.name
            and event["objectRef"]["resource"] not in ("leases", "events")
        ]

    def await_quiet(self, operator: OperatorProcess) -> list[str]:
        """Wait until an operator has looked at everything twice more and written nothing; the writes until then."""
        while True:
            before = self.writes()
            self.await_looks(operator, 2)
            if self.writes() == before:
                return before

    def await_looks(self, operator: OperatorProcess, times: int) -> None:
        """Wait until an operator has looked at everything that often."""
        count = operator.metric("kubegym_environments") + operator.metric("kubegym_modelservers")
        goal = operator.metric("kubegym_reconcile_total") + times * max(1.0, count)
        until(lambda: operator.metric("kubegym_reconcile_total") >= goal, "everything is looked at")

    def await_watching(self, operator: OperatorProcess, name: str) -> None:
        """Wait until an operator is told by a watch when this environment changes.

        What it hears first may be the list that the watch begins with.
        """
        for _ in range(2):
            heard = operator.metric("kubegym_watch_events_total", kind="GymEnvironment")
            until(partial(self._hears, operator, name, heard), f"a watch tells of {name}")

    def _hears(self, operator: OperatorProcess, name: str, heard: float) -> bool:
        touched = {"metadata": {"annotations": {"touched": str(next(_numbers))}}}
        self.cluster.api.patch(GROUP_VERSION, "GymEnvironment", name, touched, self.name)
        return operator.metric("kubegym_watch_events_total", kind="GymEnvironment") > heard

    def free_lease(self, name: str = "kubegym-operator") -> None:
        """Let a lease, whose holder has ended, be over a second from now."""
        over = {"spec": {"leaseDurationSeconds": 1}}
        self.cluster.api.patch("coordination.k8s.io/v1", "Lease", name, over, self.name)

    def await_writes(self, count: int) -> None:
        """Wait until operators have written that often, since the beginning."""
        until(lambda: len(self.writes()) >= count, f"{count} writes")


@pytest.fixture
def space(cluster: Cluster, namespace: str) -> Space:
    return Space(cluster, namespace)
