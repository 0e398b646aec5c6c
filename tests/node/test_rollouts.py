"""What the project is for: ``kubectl apply`` ends in scored rows in a bucket."""

from __future__ import annotations

from collections import Counter

import pytest

from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_results import results
from testbed.kind_runs import DONE_SECONDS, SAMPLE, applied, finished, greedy, output, rewards, sample, workers


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
