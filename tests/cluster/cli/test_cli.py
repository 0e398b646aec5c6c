"""`kubegym apply`, `get`, `describe` and `logs` as a user calls them, on a real API server without an operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.definitions import await_definitions
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
GROUP = "kubegym.dev/v1alpha1"


class Said:
    """What a command said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module", autouse=True)
def crds(cluster: Cluster) -> None:
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    await_definitions(cluster, "kubegym.dev")


def call(cluster: Cluster, *command: str, kubeconfig: Path | None = None) -> Said:
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(cluster.kubeconfig.parent),
        "KUBECONFIG": str(kubeconfig or cluster.kubeconfig),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT, check=False)
    return Said(done)


def gym(cluster: Cluster, *arguments: str) -> Said:
    return call(cluster, "kubegym", *arguments)


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-28T09:00:00Z",
    }


def test_a_run_from_apply_to_why_it_does_not_move(cluster: Cluster, namespace: str) -> None:
    applied = gym(cluster, "apply", "environments/arithmetic", "--namespace", namespace)
    assert applied.out.splitlines() == [
        f"gymenvironment/arithmetic applied to {namespace}",
        f"rolloutjob/arithmetic applied to {namespace}",
    ]
    assert gym(cluster, "apply", "environments/arithmetic", "-n", namespace).code == 0  # again, nothing changes

    unseen = gym(cluster, "describe", "arithmetic", "-n", namespace)
    assert unseen.err == ""
    assert f"no operator has looked at it: does one run that watches {namespace}?" in unseen.out

    waits = condition("EnvironmentReady", "False", "ModelNotReady", "GymEnvironment arithmetic")
    stalled = condition("Stalled", "True", "Unschedulable", "0/4 nodes are available")
    for kind, said in (("RolloutJob", waits), ("GymEnvironment", stalled)):
        status = {"observedGeneration": 1, "conditions": [said]}
        cluster.api.patch(GROUP, kind, "arithmetic", {"status": status}, namespace, subresource="status")
    described = gym(cluster, "describe", "rj/arithmetic", "-n", namespace)
    assert described.out.splitlines() == [
        f"RolloutJob {namespace}/arithmetic: Waiting (ModelNotReady)",
        "  output     s3://kubegym/runs/arithmetic/",
        "Why it does not move:",
        "  RolloutJob arithmetic: ModelNotReady: GymEnvironment arithmetic",
        "    GymEnvironment arithmetic: Unschedulable: 0/4 nodes are available",
        f"      ModelServer arithmetic-policy: NotFound: there is none in {namespace}",
    ]
    why = json.loads(gym(cluster, "describe", "arithmetic", "-n", namespace, "--json").out)
    assert (why["state"], why["reason"], len(why["why"])) == ("Waiting", "ModelNotReady", 3)


def test_a_table_of_everything(cluster: Cluster, namespace: str) -> None:
    gym(cluster, "apply", "environments/arithmetic", "environments/mcqa", "-n", namespace)
    table = gym(cluster, "get", "-A")
    assert all(word in table.out for word in (namespace, "genv", "rj", "mcqa", "Pending", "NotSeen"))
    listed = json.loads(gym(cluster, "get", "genv", "-n", namespace, "--json").out)
    assert sorted(one["metadata"]["name"] for one in listed) == ["arithmetic", "mcqa"]
    assert [one["kind"] for one in json.loads(gym(cluster, "get", "rj/mcqa", "-n", namespace, "--json").out)] == [
        "RolloutJob"
    ]


def test_kubectl_finds_it(cluster: Cluster, namespace: str) -> None:
    said = call(cluster, "kubectl", "gym", "get", "-n", namespace)
    assert (said.code, said.out) == (0, f"nothing in {namespace}\n")


def test_manifests_are_checked_before_anything_is_applied(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    manifests = tmp_path / "night.yaml"
    manifests.write_text((ROOT / "environments/arithmetic/environment.yaml").read_text().replace("maxSteps", "maxStep"))
    said = gym(cluster, "apply", str(manifests), "-n", namespace)
    assert said.code == 2
    assert "did you mean 'maxSteps'" in said.err
    assert cluster.api.list(GROUP, "GymEnvironment", namespace) == []


def test_what_the_api_server_refuses_is_said_in_its_words(cluster: Cluster, namespace: str) -> None:
    gym(cluster, "apply", "environments/arithmetic", "-n", namespace)
    other = json.loads(gym(cluster, "get", "rj/arithmetic", "-n", namespace, "--json").out)[0]
    manifest = cluster.kubeconfig.parent / f"{namespace}.json"
    other["spec"]["rolloutsPerTask"] = 5
    manifest.write_text(
        json.dumps({key: other[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "arithmetic"}})
    )
    said = gym(cluster, "apply", str(manifest), "-n", namespace)
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert "rolloutsPerTask" in said.err
    assert "Traceback" not in said.err


def test_names_that_are_not_there(cluster: Cluster, namespace: str) -> None:
    gym(cluster, "apply", "environments/arithmetic", "-n", namespace)
    for arguments, words in (
        (("describe", "arithmetik"), "did you mean 'arithmetic'? [NotFound]"),
        (("logs", "arithmetic"), "RolloutJob arithmetic has no pods now"),
        (("get", "gen"), "no kind is called 'gen'"),
    ):
        said = gym(cluster, *arguments, "-n", namespace)
        assert said.code == 2
        assert words in said.err


def test_a_user_without_rights_is_told(cluster: Cluster, namespace: str) -> None:
    until(lambda: cluster.api.get("v1", "ServiceAccount", "default", namespace) is not None, "there is an account")
    nobody = cluster.kubeconfig_of(namespace, "default")
    said = call(cluster, "kubegym", "get", "-n", namespace, kubeconfig=nobody)
    assert said.code == 1
    assert "cannot list resource" in said.err
    assert "Ask for the role view" in said.err
    assert "[Forbidden]" in said.err
    applied = call(cluster, "kubegym", "apply", "environments/arithmetic", "-n", namespace, kubeconfig=nobody)
    assert (applied.code, "cannot patch resource" in applied.err) == (1, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"server": "https://127.0.0.1:1"}, "https://127.0.0.1:1 does not answer: Failed to establish"),
        ({"certificate-authority-data": None, "certificate-authority": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"user": {"token": "x"}}, "The credentials of the kubeconfig are not taken"),
    ],
    ids=["nobody there", "another authority", "another user"],
)
@pytest.mark.parametrize("command", ["get", "apply environments/arithmetic", "describe x", "logs x"])
def test_an_api_server_that_cannot_be_asked(
    cluster: Cluster, tmp_path: Path, change: dict[str, Any], words: str, command: str
) -> None:
    told: dict[str, Any] = yaml.safe_load(cluster.kubeconfig.read_text())
    told["users"][0]["user"] = change.get("user", told["users"][0]["user"])
    place = told["clusters"][0]["cluster"]
    place.update({name: value for name, value in change.items() if name != "user"})
    told["clusters"][0]["cluster"] = {name: value for name, value in place.items() if value is not None}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(told))
    said = call(cluster, "kubegym", *command.split(), kubeconfig=kubeconfig)
    assert said.code == 1
    assert words in said.err
    assert len(said.err.splitlines()) == 1


def test_no_cluster(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "torn").write_text("clusters: [")
    for name in ("none", "torn"):
        said = call(cluster, "kubegym", "get", kubeconfig=tmp_path / name)
        assert said.code == 2
        assert "no way to a cluster" in said.err
        assert "set KUBECONFIG" in said.err
