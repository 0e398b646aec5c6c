"""A namespace of a real API server with an operator in a thread: what tests of behaviour apply, do and look at."""

from __future__ import annotations

import json
from pathlib import Path

from kubegym_operator.build.context import BuildContext
from testbed.k8s.api import Object, Refused
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.operator_manifests import API
from testbed.operator_thread import OperatorThread

ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """A namespace with an operator, and what is looked at and done in it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.operator = OperatorThread(cluster.kubeconfig, namespace)

    def restart(self, context: BuildContext) -> None:
        """Another operator, which renders otherwise, in the place of one that was stopped."""
        clock = self.operator.clock
        self.operator = OperatorThread(self.cluster.kubeconfig, self.namespace, context)
        self.operator.clock = clock
        self.operator.start()

    def apply(self, *objects: Object) -> None:
        """As ``kubectl apply --server-side``."""
        self.cluster.apply(list(objects), self.namespace)

    def edit(self, kind: str, name: str, spec: Object) -> None:
        """Patch the spec."""
        self.cluster.api.patch(API, kind, name, {"spec": spec}, self.namespace)

    def get(self, kind: str, name: str, version: str = API) -> Object | None:
        """An object, or None."""
        return self.cluster.api.get(version, kind, name, self.namespace)

    def objects(self, kind: str) -> list[Object]:
        """The objects of one of our kinds."""
        return self.cluster.api.list(API, kind, self.namespace)

    def job(self, name: str) -> Object | None:
        """A Job, or None."""
        return self.get("Job", name, "batch/v1")

    def deployment(self, name: str) -> Object | None:
        """A Deployment, or None."""
        return self.get("Deployment", name, "apps/v1")

    def status(self, kind: str, name: str) -> Object:
        """The status of an object that is there."""
        found = self.get(kind, name) or {}
        status: Object = found.get("status") or {}
        return status

    def condition(self, kind: str, name: str, type: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        for found in self.status(kind, name).get("conditions") or ():
            if found["type"] == type:
                return found["status"], found["reason"], found["message"]
        return "Unknown", "", ""

    def until(self, kind: str, name: str, type: str, status: str, reason: str) -> str:
        """Wait for a condition; its message."""
        try:
            until(lambda: self.condition(kind, name, type)[:2] == (status, reason), f"{type} is {status}")
        except TimeoutError as error:
            raise TimeoutError(f"{kind} {name}: {error}, {reason}; its status is {self.status(kind, name)}") from None
        return self.condition(kind, name, type)[2]

    def workers(self, job: str = "run", count: int = 1) -> list[str]:
        """Names of running worker pods, when there are enough."""
        labels = f"batch.kubernetes.io/job-name={job}"
        return [pod["metadata"]["name"] for pod in self.cluster.pods.wait(self.namespace, labels, count=count)]

    def finish(self, job: str, words: Object | None = None) -> None:
        """Let every pod of a Job end well, when all of them run."""
        until(lambda: self.job(job) is not None, f"there is a Job {job}")
        made = self.job(job)
        assert made is not None, f"Job {job} is gone"
        for name in self.workers(job, made["spec"]["parallelism"]):
            self.cluster.pods.succeed(self.namespace, name, json.dumps(words) if words is not None else "")

    def writes(self) -> list[str]:
        """What the operator wrote in this namespace."""
        return [
            f"{event['verb']} {event['objectRef']['resource']}/{event['objectRef'].get('name', '')}"
            + (f"/{event['objectRef']['subresource']}" if "subresource" in event["objectRef"] else "")
            for event in self.cluster.plane.writes("kubegym-operator")
            if event.get("objectRef", {}).get("namespace") == self.namespace
            and event["objectRef"]["resource"] != "events"
        ]


def quiet(desk: Desk) -> None:
    """Wait until the operator has looked at everything once more without writing."""
    while True:
        before = desk.writes()
        asked = len(desk.operator.answers.asked)
        desk.operator.look()
        until(lambda: desk.operator.idle(), "nothing is due")
        if desk.writes() == before and len(desk.operator.answers.asked) == asked:
            return


def install(cluster: Cluster) -> None:
    """Serve our kinds."""
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))

    def served() -> bool:
        try:
            for kind in ("GymEnvironment", "ModelServer", "RolloutJob"):
                cluster.api.list(API, kind)
        except (Refused, KeyError):
            return False
        return True

    until(served, "our kinds are served")
