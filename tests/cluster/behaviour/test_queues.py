"""Runs and models beside the real Kueue: quotas, preemption, and whose field ``suspend`` is."""

from __future__ import annotations

from testbed.k8s.api import Object
from testbed.k8s.kueue import queue
from testbed.k8s.process import until
from testbed.operator_desk import Desk
from testbed.operator_manifests import DONE, environment, rollout_job

WORKER: Object = {"compute": {"requests": {"cpu": "1", "memory": "64Mi"}}}


def priority(name: str, value: int) -> Object:
    """A priority for workloads."""
    metadata = {"name": name}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "WorkloadPriorityClass",
        "metadata": metadata,
        "value": value,
    }


def test_a_run_waits_for_its_quota_and_another_size_is_another_job(queued: Desk) -> None:
    queued.apply(*queue("cpu", queued.namespace, cpu="2", memory="10Gi"))
    queued.apply(environment(), rollout_job(queue={"name": "cpu"}, parallelism=4, worker=WORKER))
    queued.until("RolloutJob", "run", "Suspended", "True", "QuotaPending")
    assert queued.condition("RolloutJob", "run", "Progressing")[1] == "QuotaPending"
    queued.edit("RolloutJob", "run", {"parallelism": 2})
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    assert queued.status("RolloutJob", "run")["jobName"] == "run-2"
    assert queued.job("run") is None
    queued.finish("run-2")
    queued.finish("run-finalise", DONE)
    queued.until("RolloutJob", "run", "Complete", "True", "Completed")
    assert not [write for write in queued.writes() if write.startswith("patch jobs")], "suspend is Kueue's"


def test_a_queue_that_does_not_exist_is_named_and_its_coming_is_noticed(queued: Desk) -> None:
    server = {"engine": "embedded", "queue": {"name": "gpu"}}
    queued.apply(environment(), environment("queued", models={"policy": {"server": server}}))
    queued.apply(rollout_job(queue={"name": "cpu"}, worker=WORKER))
    queued.until("RolloutJob", "run", "Progressing", "False", "QueueNotFound")
    queued.cluster.pods.wait(queued.namespace, "kubegym.dev/modelserver-name=queued-policy", phase="Pending")
    queued.operator.look(61)
    message = queued.until("RolloutJob", "run", "Stalled", "True", "QueueNotFound")
    assert f"there is no LocalQueue cpu in namespace {queued.namespace}" in message
    assert "LocalQueue gpu" in queued.until("GymEnvironment", "queued", "Stalled", "True", "QueueNotFound")
    queued.apply(*queue("cpu", queued.namespace, cpu="4", memory="10Gi"))
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")


def test_a_preempted_run_goes_on_later(queued: Desk) -> None:
    levels = [priority(f"{queued.namespace}-low", 1), priority(f"{queued.namespace}-high", 2)]
    queued.apply(*queue("cpu", queued.namespace, cpu="1", memory="10Gi"), *levels)
    low, high = ({"name": "cpu", "priorityClass": f"{queued.namespace}-{level}"} for level in ("low", "high"))
    queued.apply(environment(), rollout_job("run", queue=low, worker=WORKER))
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    queued.apply(rollout_job("urgent", queue=high, worker=WORKER))
    queued.until("RolloutJob", "urgent", "Progressing", "True", "Collecting")
    queued.until("RolloutJob", "run", "Suspended", "True", "QuotaPending")
    queued.finish("urgent")
    queued.finish("urgent-finalise", DONE)
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    assert queued.status("RolloutJob", "run")["jobName"] == "run", "the same Job goes on"


def test_a_preempted_model_pauses_its_runs(queued: Desk) -> None:
    levels = [priority(f"{queued.namespace}-low", 1), priority(f"{queued.namespace}-high", 2)]
    queued.apply(*queue("gpu", queued.namespace, nvidia_com__gpu="1", cpu="64", memory="1000Gi"), *levels)
    server = {
        "engine": "vllm",
        "source": {"uri": "hf://org/model", "revision": "0" * 40},
        "queue": {"name": "gpu", "priorityClass": f"{queued.namespace}-low"},
    }
    queued.apply(environment(models={"policy": {"server": server}}), rollout_job())
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    metadata = {"name": "other"}
    better = {**server, "queue": {"name": "gpu", "priorityClass": f"{queued.namespace}-high"}}
    queued.apply({"apiVersion": "kubegym.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": better})
    queued.until("ModelServer", "other", "Serving", "True", "Available")
    queued.until("ModelServer", "math-policy", "Serving", "False", "QuotaPending")
    queued.until("RolloutJob", "run", "Suspended", "True", "EnvironmentNotReady")
    until(
        lambda: not queued.cluster.pods.list(queued.namespace, "batch.kubernetes.io/job-name=run"), "no worker is left"
    )
    queued.cluster.kubectl("delete", "modelserver/other", namespace=queued.namespace)
    queued.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    assert queued.condition("RolloutJob", "run", "Failed")[0] == "False"
