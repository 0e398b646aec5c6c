"""What the project is for: ``kubectl apply`` ends in scored rows in a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from testbed.images import ROOT
from testbed.k8s.api import Object
from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_results import remove, results

SAMPLE = ROOT / "environments" / "arithmetic" / "environment.yaml"
DONE_SECONDS = 600.0  # for a machine under load; half a minute otherwise
API = "kubegym.dev/v1alpha1"


@contextmanager
def applied(cluster: KindCluster, manifests: list[Object]) -> Iterator[None]:
    """Objects in the ready namespace; on leaving they are gone, and what their jobs have stored."""
    cluster.apply(manifests, namespace=NAMESPACE)
    try:
        yield
    finally:
        for each in manifests:
            cluster.kubectl("delete", each["kind"], each["metadata"]["name"], "--ignore-not-found", namespace=NAMESPACE)
        for each in manifests:
            if each["kind"] == "RolloutJob":
                remove(cluster, NAMESPACE, each["spec"]["output"]["uri"])


def sample(path: Path = SAMPLE) -> list[Object]:
    """The manifests of an environment's folder."""
    return list(yaml.safe_load_all(path.read_text()))


def finished(cluster: KindCluster, job: str) -> Object:
    """Wait until a job is Complete; its status."""
    status: Object = {}

    def complete() -> bool:
        status.update((cluster.api.get(API, "RolloutJob", job, NAMESPACE) or {}).get("status") or {})
        true = {each["type"]: each for each in status.get("conditions", []) if each["status"] == "True"}
        if "Failed" in true:
            pytest.fail(f"{job} has failed: {true['Failed']}")
        return "Complete" in true

    try:
        until(complete, f"{job} is Complete", seconds=DONE_SECONDS)
    except TimeoutError as error:
        pytest.fail(f"{error}; its status: {status}")
    return status


def test_the_sample_is_collected_once_and_scored(cluster: KindCluster) -> None:
    manifests = sample()
    with applied(cluster, manifests):
        status = finished(cluster, "arithmetic")
        run = results(cluster, NAMESPACE, manifests[1]["spec"]["output"]["uri"])
        tasks = len((SAMPLE.parent / "data" / "example.jsonl").read_text().splitlines())
        planned = tasks * manifests[1]["spec"]["rolloutsPerTask"]
        assert status["rollouts"] == {"expected": planned, "scored": planned, "unscored": 0, "failed": 0}
        assert status["manifestUri"] == manifests[1]["spec"]["output"]["uri"] + "manifest.json"
        seen = Counter(row["kubegym"]["rollout_id"] for row in run.rows)
        assert len(seen) == planned
        assert set(seen.values()) == {1}
        assert {row["kubegym"]["outcome"] for row in run.rows} == {"scored"}
        # The shipped model is good at it: half of the full reward is what one that guesses never reaches.
        assert sum(row["reward"] for row in run.rows) / planned > 0.5


@pytest.mark.parametrize(("agent", "resources"), [("Service", "Service"), ("Worker", "Service"), ("Service", "Worker")])
def test_every_placement_gives_the_rows_of_the_sample(cluster: KindCluster, agent: str, resources: str) -> None:
    """Greedy sampling: what differs between two placements is a difference of ours."""
    with applied(cluster, greedy("alike", "Worker", "Worker")):
        finished(cluster, "alike")
        expected = rewards(cluster, "alike")
    with applied(cluster, greedy("alike", agent, resources)):
        finished(cluster, "alike")
        assert rewards(cluster, "alike") == expected


def test_a_run_outlives_its_workers(cluster: KindCluster) -> None:
    """Every worker's pod is killed once in the middle, without notice; each rollout still has one result."""
    manifests = greedy("hunted", "Worker", "Worker", rollouts=40, parallelism=2, sharding={"tasksPerShard": 2})
    with applied(cluster, manifests):
        until(lambda: len(workers(cluster, "hunted", "Running")) == 2, "two workers run", seconds=DONE_SECONDS)
        for worker in workers(cluster, "hunted", "Running"):
            cluster.kubectl("delete", "pod", worker, "--grace-period=0", "--force", namespace=NAMESPACE)
        status = finished(cluster, "hunted")
        rows = results(cluster, NAMESPACE, output("hunted")).rows
        planned = status["rollouts"]["expected"]
        assert Counter(row["kubegym"]["rollout_id"] for row in rows).most_common(1)[0][1] == 1
        assert len(rows) == planned == status["rollouts"]["scored"]


def greedy(name: str, agent: str, resources: str, *, rollouts: int = 1, **spec: object) -> list[Object]:
    """The sample under another name, with each part where it is told, and without chance in its answers."""
    environment, job = sample()
    environment["metadata"]["name"] = job["metadata"]["name"] = name
    environment["spec"]["agent"]["placement"] = agent
    environment["spec"]["resources"]["placement"] = resources
    job["spec"]["environments"][0] |= {"name": name, "environmentRef": {"name": name}}
    job["spec"] |= {"sampling": {"temperature": "0"}, "rolloutsPerTask": rollouts, **spec}
    job["spec"]["output"]["uri"] = output(name)
    return [environment, job]


def output(name: str) -> str:
    return f"s3://kubegym/test/{name}/"


def rewards(cluster: KindCluster, name: str) -> list[tuple[int, float]]:
    """Task index and reward of every row."""
    rows = results(cluster, NAMESPACE, output(name)).rows
    return sorted((row["kubegym"]["task_index"], row["reward"]) for row in rows)


def workers(cluster: KindCluster, job: str, phase: str) -> list[str]:
    """Names of a job's worker pods in a phase."""
    selector = f"kubegym.dev/rolloutjob-name={job},app.kubernetes.io/component=worker"
    listed = cluster.kubectl(
        "get", "pods", "-l", selector, f"--field-selector=status.phase={phase}", "-o=name", namespace=NAMESPACE
    )
    return [name.removeprefix("pod/") for name in listed.split()]
