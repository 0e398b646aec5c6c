"""The model tier as a whole: two real vLLM replicas whose weights change in the middle of a run, one of which dies.

The run keeps token ids. What the rows say of the weights that made them is held to their rewards: the second checkpoint
knows what the first one guesses. Woken from zero, the model plays in two environments that share a judge.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubegym.model
from kubegym_operator.build.engine import ENGINE_PORT
from kubegym_operator.build.weights import CONTROL_PORT
from testbed import kind
from testbed.build import CannotBuild
from testbed.images import vllm_image
from testbed.k8s.api import Object
from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_pods import python
from testbed.kind_results import results
from testbed.kind_runs import API, ARITHMETIC, DONE_SECONDS, applied, finished, output, sample
from testbed.vllm_server import ARGUMENTS, VARIABLES

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = {"ckpt-1": ROOT / "tests" / "models" / "ckpt-1", "tiny": Path(kubegym.model.__file__).parent / "tiny"}
VOLUME, SERVER, RUN = "tier-weights", "tier", "tier"
JUDGED = ("equivalence_llm_judge", "math_with_judge")
ROLLOUTS_PER_TASK = 150
CORES = 2
# What a pod of the namespace reaches of a replica, where every policy lets it.
REACH = """
import sys, urllib.error, urllib.request
asked = ((8000, "/readyz"), (8000, "/collective_rpc"), ({engine}, "/collective_rpc"), ({control}, "/weights"))
for port, path in asked:
    url, body = f"http://{address}:{{port}}{{path}}", None if path == "/readyz" else b"{{}}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as reply:
            print(port, path, reply.status)
    except urllib.error.HTTPError as error:
        print(port, path, error.code)
    except OSError as error:
        print(port, path, "unreachable")
"""
OPEN: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "everything"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]},
}


@pytest.fixture
def image(cluster: KindCluster, tmp_path: Path) -> Iterator[str]:
    """vLLM's image on the node, and a claim there with both checkpoints."""
    if len(os.sched_getaffinity(0)) < CORES:
        pytest.skip(f"two vLLMs beside a cluster and a run take {CORES} cores")
    if not cluster.name:
        pytest.skip("vLLM's image and weights are put on the node of the tests' own cluster; KUBECONFIG names another")
    try:
        reference = vllm_image()
    except CannotBuild as error:
        # Not a failure in CI: no package index has that wheel.
        pytest.skip(f"{error}; the parts of this pass tests of their own on other engines")
    kind.load(cluster, [reference])
    for name, folder in CHECKPOINTS.items():
        shutil.copytree(folder, tmp_path / "models" / name)
    with kind.claimed(cluster, VOLUME, tmp_path / "models"):
        yield reference


def manifests(image: str) -> list[Object]:
    """The model server, an environment, and a run that keeps token ids."""
    engine = {
        "name": "engine",
        "image": image,
        "env": [{"name": name, "value": value} for name, value in VARIABLES.items()],
        # Beside everything else on two cores: by their requests the kernel would prefer them to the API server.
        "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "600m"}},
    }
    policy = {
        "engine": "vllm",
        "source": {"uri": f"pvc://{VOLUME}/ckpt-1"},
        "weights": announced(1, "ckpt-1"),
        "replicas": 2,
        "accelerator": {"resourceName": "cpu"},
        "engineArgs": ARGUMENTS,
        "podTemplate": {"spec": {"containers": [engine]}},
    }
    environment, job = sample(ARITHMETIC)
    play_with(environment, "policy")
    job["metadata"]["name"] = RUN
    job["spec"] |= {"rolloutsPerTask": ROLLOUTS_PER_TASK, "concurrency": 16}
    job["spec"]["output"] |= {"uri": output(RUN), "tokens": "Samples"}
    return [server(SERVER, policy), environment, job]


def judged() -> list[Object]:
    """Two environments that share a judge, the judge, and a run of both."""
    environments, entries = [], []
    for folder in JUDGED:
        environment, job = sample(ARITHMETIC.parent / folder)
        judge = environment["spec"]["models"]["judge"]["server"]
        play_with(environment, "policy", "judge")
        environments.append(environment)
        entries += job["spec"]["environments"]
    # Without it the judge is asked only where there is an answer in a box, which is more than this model knows.
    environments[-1]["spec"]["resources"]["config"] = {"parity": "nemo-gym"}
    job["metadata"]["name"] = "judged"
    job["spec"] |= {"environments": entries, "rolloutsPerTask": 1, "sampling": {"temperature": "0"}}
    job["spec"]["output"]["uri"] = output("judged")
    return [server("judge", judge), *environments, job]


def play_with(environment: Object, *roles: str) -> None:
    """Let servers of the namespace play these roles."""
    names = {"policy": SERVER, "judge": "judge"}
    environment["spec"]["models"] = {role: {"serverRef": {"name": names[role]}} for role in roles}
    for part in ("resources", "agent"):
        environment["spec"].setdefault(part, {})["placement"] = "Worker"


def announced(version: int, checkpoint: str) -> Object:
    return {"uri": f"pvc://{VOLUME}/{checkpoint}", "version": version}


def server(name: str, spec: Object) -> Object:
    return {"apiVersion": API, "kind": "ModelServer", "metadata": {"name": name}, "spec": spec}


def condition(cluster: KindCluster, kind: str, name: str, type: str) -> tuple[str, str]:
    status = (cluster.api.get(API, kind, name, NAMESPACE) or {}).get("status") or {}
    found = [each for each in status.get("conditions", ()) if each["type"] == type]
    return (found[0]["status"], found[0]["reason"]) if found else ("Unknown", "")


def versions(cluster: KindCluster) -> tuple[int | None, int | None]:
    status = (cluster.api.get(API, "ModelServer", SERVER, NAMESPACE) or {}).get("status") or {}
    return status.get("policyVersion"), status.get("readyReplicas")


def replicas(cluster: KindCluster) -> dict[str, str]:
    """Addresses of the replicas' pods, by name."""
    labels = f"kubegym.dev/modelserver-name={SERVER},app.kubernetes.io/component=model"
    pods = cluster.api.list("v1", "Pod", NAMESPACE, labels)
    return {pod["metadata"]["name"]: pod["status"].get("podIP", "") for pod in pods}


def collecting(cluster: KindCluster) -> bool:
    return condition(cluster, "RolloutJob", RUN, "Progressing") == ("True", "Collecting")


def test_weights_change_and_a_replica_dies_in_the_middle_of_a_run(cluster: KindCluster, image: str) -> None:
    with applied(cluster, manifests(image)):
        until(lambda: versions(cluster) == (1, 2), "two replicas serve version 1", seconds=DONE_SECONDS)
        until(lambda: collecting(cluster), "a worker collects", seconds=DONE_SECONDS)
        before = replicas(cluster)
        cluster.api.patch(API, "ModelServer", SERVER, {"spec": {"weights": announced(2, "tiny")}}, NAMESPACE)
        until(lambda: versions(cluster) == (2, 2), "two replicas serve version 2", seconds=DONE_SECONDS)
        assert replicas(cluster) == before, "no pod was replaced"
        killed = sorted(before)[0]
        cluster.kubectl("delete", "pod", killed, "--grace-period=0", "--force", namespace=NAMESPACE)
        status = finished(cluster, RUN)

        found = results(cluster, NAMESPACE, output(RUN), samples=True)
        planned = 24 * ROLLOUTS_PER_TASK
        assert status["rollouts"] == {"expected": planned, "scored": planned, "unscored": 0, "failed": 0}
        assert len({row["kubegym"]["rollout_id"] for row in found.rows}) == len(found) == planned
        rewards: dict[int, list[float]] = defaultdict(list)
        for row in found.rows:
            made_by = row["kubegym"]["policy"]["versions"]
            if len(made_by) == 1:  # some conversations began with the one and ended with the other
                rewards[made_by[0]].append(row["reward"])
        means = {version: round(sum(each) / len(each), 2) for version, each in sorted(rewards.items())}
        print(f"\nrollouts by version: { {v: len(each) for v, each in rewards.items()} }, mean rewards: {means}")
        assert set(means) == {1, 2}
        assert means[1] < 0.4 < 0.8 < means[2]
        of_turns = {turn["policy_version"] for row in found.rows for turn in row["kubegym"]["turns"]}
        samples = found.samples.to_pylist()
        assert {run["version"] for one in samples for run in one["policy_runs"]} == of_turns == {1, 2}
        assert {one["rollout_id"] for one in samples} == {row["kubegym"]["rollout_id"] for row in found.rows}

        cluster.kubectl("scale", f"modelserver/{SERVER}", "--replicas=0", namespace=NAMESPACE)
        until(lambda: condition(cluster, "ModelServer", SERVER, "Ready") == ("True", "NoReplicas"), "it rests")
        until(lambda: not replicas(cluster), "no pod is left", seconds=DONE_SECONDS)
        cluster.kubectl("scale", f"modelserver/{SERVER}", "--replicas=1", namespace=NAMESPACE)
        until(lambda: versions(cluster) == (2, 1), "a new one serves version 2", seconds=DONE_SECONDS)
        with applied(cluster, judged()):
            planned = finished(cluster, "judged")["rollouts"]["scored"]
            rows = results(cluster, NAMESPACE, output("judged")).rows
            assert len(rows) == planned == 18
            assert {tuple(row["kubegym"]["policy"]["versions"]) for row in rows} == {(2,)}
            asked = {row["kubegym"]["environment"]["name"] for row in rows if "judge" in row["kubegym"]["usage"]}
            assert asked == set(JUDGED)

        cluster.apply(OPEN, namespace=NAMESPACE)
        try:
            (address,) = replicas(cluster).values()
            script = REACH.format(engine=ENGINE_PORT, control=CONTROL_PORT, address=address)
            told = python(cluster, NAMESPACE, "stranger", cluster.images["agent"], script).output.splitlines()
            assert told == [
                "8000 /readyz 200",
                "8000 /collective_rpc 404",
                f"{ENGINE_PORT} /collective_rpc unreachable",
                f"{CONTROL_PORT} /weights 401",
            ]
        finally:
            cluster.kubectl("delete", "networkpolicy", "everything", namespace=NAMESPACE)
            cluster.kubectl("delete", "pod", "stranger", "--ignore-not-found", namespace=NAMESPACE)
