"""What the project is for: ``kubectl apply`` ends in scored rows in a bucket."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_results import results
from testbed.kind_runs import (
    ARITHMETIC,
    DONE_SECONDS,
    SAMPLES,
    applied,
    failure,
    finished,
    greedy,
    output,
    rewards,
    sample,
    workers,
)

AT_ONCE = [SAMPLES[start : start + 2] for start in range(0, len(SAMPLES), 2)]
"""Two at a time: what takes long is to start their pods, and more do not fit a node of two cores."""


@pytest.mark.parametrize("folders", AT_ONCE, ids=lambda folders: "+".join(folder.name for folder in folders))
def test_every_sample_is_collected_once_and_scored(cluster: KindCluster, folders: list[Path]) -> None:
    samples = [sample(folder) for folder in folders]
    with applied(cluster, [manifest for manifests in samples for manifest in manifests]):
        for folder, (_, job) in zip(folders, samples, strict=True):
            status = finished(cluster, job["metadata"]["name"])
            rows = results(cluster, NAMESPACE, job["spec"]["output"]["uri"]).rows
            tasks = len((folder / "data" / "example.jsonl").read_text().splitlines())
            planned = tasks * job["spec"]["rolloutsPerTask"]
            assert status["rollouts"] == {"expected": planned, "scored": planned, "unscored": 0, "failed": 0}
            assert status["manifestUri"] == job["spec"]["output"]["uri"] + "manifest.json"
            assert len({row["kubegym"]["rollout_id"] for row in rows}) == len(rows) == planned
            assert {row["kubegym"]["outcome"] for row in rows} == {"scored"}
            if folder.name == "arithmetic":  # of which the shipped model knows far more than one that guesses
                assert sum(row["reward"] for row in rows) / planned > 0.5


@pytest.mark.parametrize(("agent", "resources"), [("Service", "Service"), ("Worker", "Service")])
def test_every_placement_gives_the_rows_of_the_sample(cluster: KindCluster, agent: str, resources: str) -> None:
    """Greedy sampling: what differs between two placements is a difference of ours.

    There is no fourth one: resources within a worker need their agent there, too.
    """
    with applied(cluster, greedy("alike", "Worker", "Worker")):
        finished(cluster, "alike")
        expected = rewards(cluster, "alike")
    with applied(cluster, greedy("alike", agent, resources)):
        finished(cluster, "alike")
        assert rewards(cluster, "alike") == expected


def test_a_model_that_cannot_do_what_rows_need_fails_the_job_with_that_reason(cluster: KindCluster) -> None:
    """Its agents are pods of their own: the worker asks what they would ask, and plans nothing."""
    environment, job = sample(ARITHMETIC.parent / "haystack")
    environment["spec"]["models"]["policy"] = {"server": {"engine": "embedded"}}
    for part in ("agent", "resources"):
        environment["spec"][part]["placement"] = "Service"
    with applied(cluster, [environment, job]):
        told = failure(cluster, job["metadata"]["name"])
        assert told["Failed"]["reason"] == "ModelUnsuitable"
        assert "has 512" in told["Failed"]["message"]
        assert told["PlanCommitted"]["status"] == "False"


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
