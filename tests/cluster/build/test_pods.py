"""What becomes of rendered objects on the real control plane: scheduling, Jobs, evictions, the garbage collector."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym.core.spec import RolloutJob
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.rendered import Object, render
from testbed.rendered_live import CONTEXT, component, created, stored

HUB = {"uri": "hf://org/model", "revision": "abc"}


def test_gpu_pods_go_where_gpus_are_and_wait_where_there_are_not_enough(cluster: Cluster, restricted: str) -> None:
    spec = {"engine": "vllm", "source": HUB, "parallelism": {"tensor": 4}}
    created(cluster, [stored(cluster, restricted, "ModelServer", "qwen", spec)], replicas=2)
    pods = cluster.pods.wait(restricted, component("model"), count=2)
    assert all(pod["spec"]["nodeName"].startswith("gpu-") for pod in pods)

    large = {"engine": "vllm", "source": HUB, "parallelism": {"tensor": 16}}
    created(cluster, [stored(cluster, restricted, "ModelServer", "large", large)])

    def unschedulable() -> bool:
        found = cluster.pods.list(restricted, "kubegym.dev/modelserver-name=large")
        conditions = [condition for pod in found for condition in pod["status"].get("conditions", ())]
        return any(c["reason"] == "Unschedulable" and "nvidia.com/gpu" in c["message"] for c in conditions)

    until(unschedulable, "the scheduler says that no node has 16 GPUs")


def test_a_deleted_server_takes_its_children_along(cluster: Cluster, restricted: str) -> None:
    """Rule 12."""
    made = created(cluster, [stored(cluster, restricted, "ModelServer", "tiny", {"engine": "embedded"})])
    cluster.pods.wait(restricted, component("model"))
    cluster.api.delete("kubegym.dev/v1alpha1", "ModelServer", "tiny", restricted)

    def gone() -> bool:
        return all(
            cluster.api.get(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], restricted) is None for obj in made
        )

    until(gone, "the children of ModelServer tiny are gone")


def test_an_environment_s_pods_run_and_a_drain_is_never_blocked(cluster: Cluster, restricted: str) -> None:
    models = {"policy": {"endpoint": {"baseUrl": "https://api.example.com/v1", "model": "m"}}}
    created(cluster, [stored(cluster, restricted, "GymEnvironment", "math", {"models": models})])
    for part in ("agent", "resources"):
        (pod,) = cluster.pods.wait(restricted, component(part))

        def allowed(name: str = f"math-{part}") -> bool:
            budget = cluster.api.get("policy/v1", "PodDisruptionBudget", name, restricted)
            return budget is not None and budget.get("status", {}).get("disruptionsAllowed") == 1

        until(allowed, f"the budget of the {part} counts its pods")
        cluster.pods.evict(restricted, pod["metadata"]["name"])
        (other,) = cluster.pods.wait(restricted, component(part))
        assert other["metadata"]["name"] != pod["metadata"]["name"]
        cluster.pods.unready(restricted, other["metadata"]["name"])
        cluster.pods.evict(restricted, other["metadata"]["name"])  # unhealthy: at any time


@pytest.fixture
def run(cluster: Cluster, restricted: str) -> tuple[str, str]:
    """Namespace and name of a worker Job that gives up at the first failure that counts."""
    models = {"policy": {"endpoint": {"baseUrl": "https://api.example.com/v1", "model": "m"}}}
    parts = {"agent": {"placement": "Worker"}, "resources": {"placement": "Worker"}}
    environment = stored(cluster, restricted, "GymEnvironment", "math", {"models": models, **parts})
    spec: dict[str, Any] = {
        "environments": [{"name": "math", "environmentRef": {"name": "math"}, "dataset": {"bundled": {}}}],
        "output": {"uri": "s3://runs/x/"},
        "failurePolicy": {"backoffLimit": 0},
    }
    job = stored(cluster, restricted, "RolloutJob", "run", spec)
    assert isinstance(job, RolloutJob)
    objects = render([environment, job], CONTEXT).objects
    for obj in objects:
        if obj["metadata"]["name"] != "run-finalise":
            cluster.api.create(obj)
    return restricted, "run"


def job_of(cluster: Cluster, run: tuple[str, str]) -> Object:
    found = cluster.api.get("batch/v1", "Job", run[1], run[0])
    assert found is not None
    return found


@pytest.mark.parametrize("code", [12, 143])
def test_fenced_and_terminated_workers_are_replaced_and_not_counted(
    cluster: Cluster, run: tuple[str, str], code: int
) -> None:
    (first,) = cluster.pods.wait(run[0], component("worker"))
    cluster.pods.fail(run[0], first["metadata"]["name"], code)
    (second,) = cluster.pods.wait(run[0], component("worker"))
    assert second["metadata"]["name"] != first["metadata"]["name"]
    status = job_of(cluster, run)["status"]
    assert not status.get("failed")
    assert not any(each["type"] == "Failed" for each in status.get("conditions", ()))


@pytest.mark.parametrize(("code", "reason"), [(11, "PodFailurePolicy"), (1, "BackoffLimitExceeded")])
def test_what_cannot_succeed_ends_the_job_and_anything_else_counts(
    cluster: Cluster, run: tuple[str, str], code: int, reason: str
) -> None:
    (pod,) = cluster.pods.wait(run[0], component("worker"))
    cluster.pods.fail(run[0], pod["metadata"]["name"], code)

    def failed() -> bool:
        conditions = job_of(cluster, run)["status"].get("conditions", ())
        return any(each["type"] == "Failed" and each["reason"] == reason for each in conditions)

    until(failed, f"the Job failed by {reason}")


def test_an_evicted_worker_burns_no_retry(cluster: Cluster, run: tuple[str, str]) -> None:
    (first,) = cluster.pods.wait(run[0], component("worker"))
    cluster.pods.evict(run[0], first["metadata"]["name"])
    until(
        lambda: any(
            pod["metadata"]["name"] != first["metadata"]["name"]
            for pod in cluster.pods.wait(run[0], component("worker"))
        ),
        "another worker runs",
    )
    assert not any(each["type"] == "Failed" for each in job_of(cluster, run)["status"].get("conditions", ()))


def test_workers_are_scaled_in_tandem(cluster: Cluster, run: tuple[str, str]) -> None:
    """Rule 4: completions and parallelism move together, up and down."""
    cluster.pods.wait(run[0], component("worker"))
    for workers in (4, 2):
        size = {"spec": {"parallelism": workers, "completions": workers}}
        cluster.api.patch("batch/v1", "Job", run[1], size, run[0])
        until(
            lambda wanted=workers: (
                len(  # type: ignore[misc]
                    [
                        pod
                        for pod in cluster.pods.list(run[0], component("worker"))
                        if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") == "Running"
                    ]
                )
                == wanted
            ),
            f"{workers} workers run",
        )
