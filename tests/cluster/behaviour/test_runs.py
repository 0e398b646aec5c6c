"""Environments and runs on a real API server: their lives, and what disturbs them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from kubegym_operator.plan.snapshot import Progress
from testbed.k8s.process import until
from testbed.operator_desk import ROOT, Desk, quiet
from testbed.operator_manifests import DONE, environment, rollout_job


def start(desk: Desk, **spec: Any) -> None:
    """A run that collects."""
    desk.apply(environment(), rollout_job(**spec))
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")


def test_kubectl_apply_of_arithmetic_ends_with_a_manifest(desk: Desk) -> None:
    desk.apply(*yaml.safe_load_all((ROOT / "environments/arithmetic/environment.yaml").read_text()))
    desk.cluster.wait("gymenvironment/arithmetic", "Serving", desk.namespace)
    desk.finish("arithmetic")
    desk.finish("arithmetic-finalise", DONE)
    desk.cluster.wait("rolloutjob/arithmetic", "Complete", desk.namespace)
    status = desk.status("RolloutJob", "arithmetic")
    assert status["manifestUri"] == DONE["manifestUri"]
    assert status["rollouts"] == DONE["rollouts"]
    writes = desk.writes()
    of_job = [write for write in writes if "rolloutjobs" in write]
    assert len(of_job) <= 5, of_job
    of_environment = [write for write in writes if "gymenvironments" in write]
    assert len(of_environment) <= 6, of_environment


def test_suspend_resume_and_other_sizes(desk: Desk) -> None:
    start(desk, parallelism=2)
    desk.workers(count=2)
    desk.cluster.kubectl("scale", "rolloutjob/run", "--replicas=4", namespace=desk.namespace)
    desk.workers(count=4)
    desk.edit("RolloutJob", "run", {"suspend": True})
    desk.until("RolloutJob", "run", "Suspended", "True", "Suspended")
    until(lambda: not desk.cluster.pods.list(desk.namespace, "batch.kubernetes.io/job-name=run"), "no worker is left")
    desk.edit("RolloutJob", "run", {"suspend": False, "parallelism": 1})
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    job = desk.job("run")
    assert job is not None
    assert job["spec"]["completions"] == 1
    desk.finish("run")
    desk.finish("run-finalise", DONE)
    desk.until("RolloutJob", "run", "Complete", "True", "Completed")


def test_an_evicted_worker_comes_back_and_counts_against_nothing(desk: Desk) -> None:
    start(desk, failurePolicy={"backoffLimit": 0})
    (before,) = desk.workers()
    desk.cluster.pods.evict(desk.namespace, before)
    until(lambda: desk.workers() != [before], "another worker runs")
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    assert desk.condition("RolloutJob", "run", "Failed")[0] == "False"


def test_a_worker_that_cannot_succeed_ends_the_run_with_its_words(desk: Desk) -> None:
    start(desk)
    (pod,) = desk.workers()
    words = json.dumps({"reason": "ObjectStoreDenied", "message": "403 on s3://kubegym: check the Secret"})
    desk.cluster.pods.fail(desk.namespace, pod, 11, message=words)
    message = desk.until("RolloutJob", "run", "Failed", "True", "ObjectStoreDenied")
    assert "check the Secret" in message


def test_too_many_failed_rollouts_over_all_workers_halt_the_run(desk: Desk) -> None:
    """A worker counts its own failures; the share of the whole run is the operator's to watch."""
    start(desk, parallelism=2, failurePolicy={"maxFailedRolloutFraction": "0.1"})
    desk.workers(count=2)
    told: Progress = Progress.from_json({"rollouts": {"expected": 100, "scored": 40, "unscored": 0, "failed": 10}})
    desk.operator.answers.progress = told
    desk.operator.look(30)
    until(lambda: desk.status("RolloutJob", "run").get("rollouts", {}).get("failed") == 10, "the failures are counted")
    assert desk.condition("RolloutJob", "run", "RewardIntegrity")[0] == "True", "as many as there may be"
    failures = {"ModelTimeout": 9, "SandboxError": 2}
    desk.operator.answers.progress = replace(told, rollouts={**told.rollouts, "failed": 11}, failures=failures)
    desk.operator.look(30)
    message = desk.until("RolloutJob", "run", "RewardIntegrity", "False", "RolloutFailureBudgetExceeded")
    assert "11 of 100 rollouts failed" in message
    assert "ModelTimeout 9" in message
    desk.until("RolloutJob", "run", "Failed", "True", "RolloutFailureBudgetExceeded")
    until(lambda: desk.job("run") is None, "the workers are stopped")
    assert desk.status("RolloutJob", "run")["rollouts"]["scored"] == 40, "what was collected stays and is told"


def test_an_edited_environment_ends_the_run_and_a_new_one_goes_on(desk: Desk) -> None:
    start(desk)
    desk.edit("GymEnvironment", "math", {"agent": {"maxSteps": 3}})
    assert "math" in desk.until("RolloutJob", "run", "Failed", "True", "EnvironmentChanged")
    until(lambda: desk.job("run") is None, "the workers are stopped")
    back = '-p=[{"op": "remove", "path": "/spec/agent/maxSteps"}]'
    desk.cluster.kubectl("patch", "gymenvironment/math", "--type=json", back, namespace=desk.namespace)
    desk.apply(rollout_job("again"))
    desk.until("RolloutJob", "again", "Progressing", "True", "Collecting")


def test_children_edited_or_deleted_by_hand_are_repaired(desk: Desk) -> None:
    start(desk)
    desk.cluster.api.patch("v1", "Service", "math-agent", {"spec": {"selector": {"component": "mine"}}}, desk.namespace)
    desk.cluster.api.delete("apps/v1", "Deployment", "math-resources", desk.namespace)
    desk.cluster.api.delete("networking.k8s.io/v1", "NetworkPolicy", "math-agent", desk.namespace)

    def repaired() -> bool:
        policy = desk.get("NetworkPolicy", "math-agent", "networking.k8s.io/v1")
        return desk.deployment("math-resources") is not None and policy is not None

    until(repaired, "what was deleted is there again")
    desk.until("GymEnvironment", "math", "Serving", "True", "Available")
    image = [{"name": "agent", "image": "somebody/elses:1"}]
    agent = desk.deployment("math-agent")
    assert agent is not None
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    image[0]["name"] = container["name"]
    desk.cluster.kubectl(
        "patch",
        "deployment/math-agent",
        "-p",
        json.dumps({"spec": {"template": {"spec": {"containers": image}}}}),
        namespace=desk.namespace,
    )

    def image_is_ours() -> bool:
        found = desk.deployment("math-agent")
        assert found is not None
        return bool(found["spec"]["template"]["spec"]["containers"][0]["image"] == container["image"])

    until(image_is_ours, "the image is ours again")


def test_a_restart_at_any_moment_changes_nothing(desk: Desk) -> None:
    start(desk)
    moments = {
        "": ("Progressing", "True", "Collecting"),
        "run": ("Progressing", "True", "Finalizing"),
        "run-finalise": ("Complete", "True", "Completed"),
    }
    for job, goal in moments.items():
        if job:
            desk.finish(job, DONE)
        desk.until("RolloutJob", "run", *goal)
        desk.until("GymEnvironment", "math", "Ready", "True", "Available")
        quiet(desk)
        desk.operator.stop()
        before = desk.writes()
        desk.operator.start()
        quiet(desk)
        assert desk.writes() == before


def test_deleting_takes_everything_along(desk: Desk) -> None:
    start(desk)
    desk.cluster.kubectl("delete", "rolloutjob/run", "gymenvironment/math", namespace=desk.namespace)
    kinds = (("v1", "Pod"), ("apps/v1", "Deployment"), ("batch/v1", "Job"), ("v1", "Service"), ("v1", "Secret"))

    def gone() -> bool:
        return not any(desk.cluster.api.list(version, kind, desk.namespace) for version, kind in kinds)

    until(gone, "nothing is left")


def test_several_environments_in_one_run(desk: Desk) -> None:
    desk.apply(
        environment("math"),
        environment("code", resources={"placement": "Worker"}, agent={"placement": "Worker"}),
        rollout_job(environments=("math", "code")),
    )
    desk.until("RolloutJob", "run", "Progressing", "True", "Collecting")
    assert [entry["name"] for entry in desk.status("RolloutJob", "run")["environments"]] == ["code", "math"]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_deadline_ends_the_run(desk: Desk, moment: str) -> None:
    if moment == "before":
        desk.operator.answers.bad["agent"] = "HTTP 503"
        desk.apply(environment(), rollout_job(preRunningDeadlineSeconds=1000))
        desk.until("RolloutJob", "run", "EnvironmentReady", "False", "ProbeFailed")
        reason = "PreRunningDeadlineExceeded"
    else:
        start(desk, activeDeadlineSeconds=1000)
        reason = "DeadlineExceeded"
    desk.operator.look(1001)
    desk.until("RolloutJob", "run", "Failed", "True", reason)
    until(lambda: desk.job("run") is None, "the workers are stopped")
