"""Tell fake pods what happens to them, after they were created; before, by annotations (``testbed.k8s.kwok``)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from testbed.k8s.api import Api, Object, Objects, Refused
from testbed.k8s.kwok import HOLD
from testbed.k8s.process import START_SECONDS, until


class Pods:
    """The pods of a cluster with fake nodes. Every command is done when it returns."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def get(self, namespace: str, name: str) -> Object:
        """The pod; it has to be there."""
        pod = self._api.get("v1", "Pod", name, namespace)
        assert pod is not None, f"there is no pod {namespace}/{name}"
        return pod

    def list(self, namespace: str, labels: str = "") -> Objects:
        """Pods by a label selector, oldest first."""
        found = self._api.list("v1", "Pod", namespace, labels)
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def wait(
        self,
        namespace: str,
        labels: str = "",
        *,
        count: int = 1,
        phase: str = "Running",
        seconds: float = START_SECONDS,
    ) -> Objects:
        """Wait until ``count`` pods, none of them being deleted, are in a phase; they."""
        found: Objects = []

        def there() -> bool:
            found[:] = [
                pod
                for pod in self.list(namespace, labels)
                if pod["status"].get("phase") == phase and "deletionTimestamp" not in pod["metadata"]
            ]
            return len(found) >= count

        until(there, f"{count} pods {labels!r} of {namespace} are {phase}", seconds=seconds)
        return found

    def succeed(self, namespace: str, name: str, message: str = "") -> None:
        """Its containers end with 0; ``message`` are their last words."""
        self._end(namespace, name, 0, "Completed", message)

    def fail(self, namespace: str, name: str, code: int = 1, reason: str = "Error", message: str = "") -> None:
        """Its containers end with ``code``; a reason of kubelet's is, for example, ``OOMKilled`` (with 137)."""
        self._end(namespace, name, code, reason, message)

    def crash(self, namespace: str, name: str, code: int = 1, reason: str = "Error", message: str = "") -> None:
        """Its containers ended and wait to be started again (``CrashLoopBackOff``)."""

        def crashed(container: Object) -> None:
            container["lastState"] = {"terminated": _terminated(code, reason, message)}
            container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}
            container["restartCount"] = int(container.get("restartCount", 0)) + 1

        self._change(namespace, name, crashed, ready=False)

    def hold_back(self, namespace: str, name: str, reason: str, message: str = "") -> None:
        """Its containers do not start, for example for ``ImagePullBackOff`` or ``CreateContainerConfigError``."""

        def waits(container: Object) -> None:
            container["state"] = {"waiting": {"reason": reason, "message": message}}

        self._api.patch("v1", "Pod", name, {"metadata": {"annotations": {HOLD: "true"}}}, namespace)
        self._change(namespace, name, waits, ready=False, phase="Pending")

    def run(self, namespace: str, name: str) -> None:
        """Its containers run and are ready, whatever was before."""

        def runs(container: Object) -> None:
            container["state"] = {"running": {"startedAt": _now()}}

        self._change(namespace, name, runs, ready=True, phase="Running")

    def unready(self, namespace: str, name: str) -> None:
        """Its containers run, but their readiness probes fail."""
        self._change(namespace, name, lambda container: None, ready=False)

    def evict(self, namespace: str, name: str) -> None:
        """Evict it as a drain does.

        Raises:
            Refused: a PodDisruptionBudget does not allow it (429).
        """
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        self._api.request("POST", self._api.path("v1", "Pod", namespace, name) + "/eviction", eviction)

    def _end(self, namespace: str, name: str, code: int, reason: str, message: str) -> None:
        def ends(container: Object) -> None:
            container["state"] = {"terminated": _terminated(code, reason, message)}

        self._change(namespace, name, ends, ready=False, phase="Failed" if code else "Succeeded")

    def _change(
        self,
        namespace: str,
        name: str,
        change: Callable[[Object], None],
        *,
        ready: bool,
        phase: str | None = None,
    ) -> None:
        """Change every container's status; again where somebody else wrote in between."""
        while True:
            pod = self.get(namespace, name)
            status = pod["status"]
            before = {container["name"]: container for container in status.get("containerStatuses", [])}
            containers = [before.get(container["name"], _unknown(container)) for container in pod["spec"]["containers"]]
            for container in containers:
                change(container)
                container["ready"] = container["started"] = ready
            conditions = [c for c in status.get("conditions", []) if c["type"] not in ("Ready", "ContainersReady")]
            for kind in ("Ready", "ContainersReady"):
                conditions.append({"type": kind, "status": "True" if ready else "False", "lastTransitionTime": _now()})
            status |= {"phase": phase or status.get("phase"), "containerStatuses": containers}
            status["conditions"] = conditions
            try:
                self._api.request("PUT", self._api.path("v1", "Pod", namespace, name) + "/status", pod)
                return
            except Refused as refused:
                if refused.reason != "Conflict":
                    raise


def _terminated(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": message, "startedAt": _now(), "finishedAt": _now()}


def _unknown(container: Object) -> Object:
    return {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "state": {}}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
