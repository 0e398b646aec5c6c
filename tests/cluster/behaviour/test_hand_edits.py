"""Children that people edit: put back, whatever was edited and whoever rendered them; what is nobody's stays."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from kubegym_operator.build.context import BuildContext
from testbed.k8s.api import Object
from testbed.k8s.process import until
from testbed.operator_desk import Desk, quiet
from testbed.operator_manifests import environment, rollout_job

NETWORK = "networking.k8s.io/v1"
POD = "/spec/template/spec"


@dataclass(frozen=True)
class Edit:
    """A hand edit of a child: an operation of JSON patch."""

    kind: str
    version: str
    name: str
    op: str
    path: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.kind} {self.op} {self.path}"

    def make(self, desk: Desk) -> None:
        """As ``kubectl patch``; the test of the old value keeps an edit from changing nothing."""
        operation = {"op": self.op, "path": self.path, **({"value": self.value} if self.op != "remove" else {})}
        patch = f"-p={json.dumps([operation])}"
        desk.cluster.kubectl("patch", f"{self.kind}/{self.name}", "--type=json", patch, namespace=desk.namespace)


EDITS = [
    Edit("Service", "v1", "math-agent", "add", "/spec/selector/mine", "x"),
    Edit("Service", "v1", "math-agent", "replace", "/spec/ports/0/targetPort", 1),
    Edit("Service", "v1", "math-agent", "remove", "/metadata/labels/app.kubernetes.io~1part-of"),
    Edit("NetworkPolicy", NETWORK, "math-agent", "add", "/spec/ingress/0/ports/-", {"port": 22}),
    Edit("NetworkPolicy", NETWORK, "math-agent", "add", "/spec/ingress/-", {}),
    Edit("NetworkPolicy", NETWORK, "math-agent", "add", "/spec/ingress/0/from/0/namespaceSelector", {}),
    Edit("NetworkPolicy", NETWORK, "math-agent", "replace", "/spec/podSelector", {}),
    Edit("NetworkPolicy", NETWORK, "math-agent", "remove", "/spec/egress/0"),
    Edit("PodDisruptionBudget", "policy/v1", "math-agent", "replace", "/spec/maxUnavailable", 0),
    Edit("PodDisruptionBudget", "policy/v1", "math-agent", "add", "/spec/selector/matchLabels/mine", "x"),
    Edit("ServiceAccount", "v1", "math-agent", "replace", "/automountServiceAccountToken", True),
    Edit("ConfigMap", "v1", "math-environment", "replace", "/data/environment.yaml", "{}"),
    Edit("Deployment", "apps/v1", "math-agent", "add", f"{POD}/tolerations/-", {"operator": "Exists"}),
    Edit("Deployment", "apps/v1", "math-agent", "replace", f"{POD}/containers/0/image", "somebody/elses:1"),
    Edit("Deployment", "apps/v1", "math-agent", "add", f"{POD}/containers/0/args/-", "--more"),
    Edit("Deployment", "apps/v1", "math-agent", "remove", f"{POD}/containers/0/readinessProbe"),
    Edit("Deployment", "apps/v1", "math-agent", "remove", f"{POD}/containers/0/volumeMounts/0"),
    Edit("Deployment", "apps/v1", "math-agent", "add", f"{POD}/nodeSelector/zone", "x"),
]

OF_OTHERS = [
    Edit("Service", "v1", "math-agent", "add", "/spec/ports/-", {"name": "more", "port": 9, "protocol": "TCP"}),
    Edit("Service", "v1", "math-agent", "add", "/metadata/annotations/mine", "x"),
    Edit("Deployment", "apps/v1", "math-agent", "add", "/spec/template/metadata/annotations", {"restarted": "now"}),
    Edit("Deployment", "apps/v1", "math-resources", "add", f"{POD}/tolerations", [{"operator": "Exists"}]),
    Edit("Deployment", "apps/v1", "math-agent", "add", f"{POD}/hostAliases", [{"ip": "10.0.0.1", "hostnames": ["a"]}]),
]
"""Fields that we do not say, and items of lists that Kubernetes merges: not ours, and left alone."""

PLACED: Object = {
    "spec": {"tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"kubernetes.io/os": "linux"}}
}


def contents(obj: Object | None) -> Object:
    """What people edit of an object."""
    assert obj is not None
    metadata = {name: obj["metadata"].get(name) for name in ("labels", "ownerReferences")}
    body = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return {**body, "metadata": metadata}


def repaired(desk: Desk, edit: Edit) -> None:
    """Make an edit, and wait until nothing of it is left."""
    before = contents(desk.get(edit.kind, edit.name, edit.version))
    edit.make(desk)
    try:
        until(lambda: contents(desk.get(edit.kind, edit.name, edit.version)) == before, str(edit))
    except TimeoutError:
        assert contents(desk.get(edit.kind, edit.name, edit.version)) == before, str(edit)


@pytest.mark.parametrize("revision", ["as it renders", "rendered by an older operator"])
def test_whatever_is_edited_is_put_back(desk: Desk, revision: str) -> None:
    desk.apply(environment(agent={"podTemplate": PLACED}), rollout_job())
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    if "older" in revision:
        desk.operator.stop()
        newer = BuildContext()
        desk.restart(replace(newer, render_revision="newer", images=replace(newer.images, agent="agent:newer")))
        desk.until("GymEnvironment", "math", "RenderOutdated", "True", "Outdated")
    quiet(desk)
    for edit in EDITS:
        repaired(desk, edit)
    quiet(desk)
    assert desk.condition("RolloutJob", "run", "Failed")[0] == "False"


def test_what_others_may_add_stays_and_costs_no_writes(desk: Desk) -> None:
    desk.apply(environment())
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    quiet(desk)
    for edit in OF_OTHERS:
        edit.make(desk)
    quiet(desk)
    written = [write for write in desk.writes() if write == "patch services/math-agent"]
    assert len(written) == 1, "only the first apply"
    service = desk.get("Service", "math-agent", "v1")
    assert service is not None
    assert "mine" in service["metadata"]["annotations"]
    assert len(service["spec"]["ports"]) == 2


def test_edits_made_while_no_operator_runs_are_found(desk: Desk) -> None:
    desk.apply(environment())
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    quiet(desk)
    desk.operator.stop()
    before = contents(desk.get("NetworkPolicy", "math-agent", NETWORK))
    Edit("NetworkPolicy", NETWORK, "math-agent", "replace", "/spec/podSelector", {}).make(desk)
    Edit("NetworkPolicy", NETWORK, "math-agent", "remove", "/spec/egress/0").make(desk)
    desk.restart(replace(BuildContext(), render_revision="newer"))
    until(lambda: contents(desk.get("NetworkPolicy", "math-agent", NETWORK)) == before, "it is put back")
