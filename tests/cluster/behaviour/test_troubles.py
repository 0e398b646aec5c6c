"""What does not run says why, in the words of whoever knows."""

from __future__ import annotations

from testbed.k8s.api import Object
from testbed.k8s.process import until
from testbed.operator_desk import Desk
from testbed.operator_manifests import environment, rollout_job

GPU_SERVER: Object = {
    "engine": "vllm",
    "source": {"uri": "hf://org/model", "revision": "0" * 40},
    "parallelism": {"tensor": 64},
}


def test_the_scheduler_says_why_a_model_gets_no_gpus(desk: Desk) -> None:
    desk.apply(environment(models={"policy": {"server": GPU_SERVER}}), rollout_job())
    until(lambda: desk.condition("GymEnvironment", "math", "Reconciling")[0] != "Unknown", "it is looked at")
    desk.cluster.pods.wait(desk.namespace, "app.kubernetes.io/component=model", phase="Pending")
    desk.operator.look(20)
    message = desk.until("GymEnvironment", "math", "Stalled", "True", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in message
    assert "Insufficient nvidia.com/gpu" in desk.until("RolloutJob", "run", "Stalled", "True", "Unschedulable")


def test_the_kubelet_and_the_container_say_why_a_part_does_not_start(desk: Desk) -> None:
    desk.apply(environment())
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    labels = "app.kubernetes.io/component=agent"
    (pod,) = desk.cluster.pods.wait(desk.namespace, labels)
    name = pod["metadata"]["name"]
    desk.cluster.pods.crash(desk.namespace, name, 3, message="cannot read /etc/kubegym/environment")
    message = desk.until("GymEnvironment", "math", "Stalled", "True", "CrashLoopBackOff")
    assert "cannot read /etc/kubegym/environment" in message
    desk.cluster.pods.crash(desk.namespace, name, 137, reason="OOMKilled")
    desk.until("GymEnvironment", "math", "Stalled", "True", "OOMKilled")
    desk.cluster.pods.hold_back(desk.namespace, name, "ImagePullBackOff", "no such image")
    assert "no such image" in desk.until("GymEnvironment", "math", "Stalled", "True", "ImagePullBackOff")
    desk.cluster.pods.run(desk.namespace, name)
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")


def test_a_quota_says_why_there_are_no_pods(desk: Desk) -> None:
    desk.apply(environment())
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    desk.apply(quota)
    until(
        lambda: (desk.get("ResourceQuota", "none", "v1") or {}).get("status", {}).get("hard") == {"pods": "0"},
        "the quota holds",
    )
    desk.edit("GymEnvironment", "math", {"agent": {"replicas": 3}})
    assert "exceeded quota" in desk.until("GymEnvironment", "math", "Stalled", "True", "QuotaExceeded")
    desk.apply(rollout_job())
    until(lambda: desk.job("run") is not None, "the Job is there")
    until(lambda: (desk.job("run") or {}).get("status", {}).get("startTime") is not None, "it is started")

    desk.operator.look(15)

    def refused() -> bool:
        desk.operator.look()  # that they were refused the Job controller tells by an event, which nobody watches
        until(desk.operator.idle, "it was looked at")
        return desk.condition("RolloutJob", "run", "Stalled")[:2] == ("True", "QuotaExceeded")

    until(refused, "the run says that its pods were refused")
    assert "exceeded quota" in desk.condition("RolloutJob", "run", "Stalled")[2]


def test_a_pod_template_that_the_server_refuses(desk: Desk) -> None:
    bad = {"spec": {"priorityClassName": "x", "tolerations": [{"operator": "Sometimes"}]}}
    desk.apply(environment(agent={"podTemplate": bad}))
    assert "Sometimes" in desk.until("GymEnvironment", "math", "Stalled", "True", "InvalidPodTemplate")


def test_a_run_whose_pods_the_server_refuses_ends_at_its_deadline(desk: Desk) -> None:
    bad = {"spec": {"tolerations": [{"operator": "Sometimes"}]}}
    desk.apply(environment(), rollout_job(worker={"podTemplate": bad}, preRunningDeadlineSeconds=600))
    assert "Sometimes" in desk.until("RolloutJob", "run", "Stalled", "True", "InvalidPodTemplate")
    desk.operator.look(601)
    assert "Sometimes" in desk.until("RolloutJob", "run", "Failed", "True", "PreRunningDeadlineExceeded")


def test_a_model_of_several_nodes_needs_leader_worker_sets(desk: Desk) -> None:
    server = {**GPU_SERVER, "parallelism": {"tensor": 8, "nodes": 2}}
    desk.apply(environment(models={"policy": {"server": server}}))
    message = desk.until("ModelServer", "math-policy", "Stalled", "True", "LeaderWorkerSetNotInstalled")
    assert "install it, or set nodes to 1" in message
    desk.until("GymEnvironment", "math", "Stalled", "True", "LeaderWorkerSetNotInstalled")


def test_what_is_missing_is_named(desk: Desk) -> None:
    desk.apply(environment(models={"policy": {"serverRef": {"name": "shared"}}}), rollout_job(environments=("other",)))
    desk.until("GymEnvironment", "math", "Reconciling", "True", "ModelServerNotFound")
    desk.until("RolloutJob", "run", "EnvironmentReady", "False", "EnvironmentNotFound")
    desk.operator.look(61)
    assert "'shared'" in desk.until("GymEnvironment", "math", "Stalled", "True", "ModelServerNotFound")
    assert "'other'" in desk.until("RolloutJob", "run", "Stalled", "True", "EnvironmentNotFound")


def test_idle_parts_go_to_zero_and_a_run_wakes_them(desk: Desk) -> None:
    desk.apply(environment(idlePolicy={"scaleToZeroAfterSeconds": 3600}))
    desk.until("GymEnvironment", "math", "Ready", "True", "Available")
    desk.operator.look(3601)
    desk.until("GymEnvironment", "math", "Ready", "True", "Idle")
    desk.until("ModelServer", "math-policy", "Ready", "True", "Idle")
    until(lambda: not desk.cluster.pods.list(desk.namespace), "no pod is left")
    desk.apply(rollout_job())
    desk.until("RolloutJob", "run", "EnvironmentReady", "False", "CheckingOutput")
    (pod,) = desk.workers("run-finalise")
    desk.cluster.pods.fail(desk.namespace, pod, 1, message='{"reason": "IncompleteRun", "message": "no plan"}')
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
