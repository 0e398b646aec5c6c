"""Lives of runs over the API server's twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubegym_operator.kube.errors import Forbidden
from kubegym_operator.kube.kinds import KindInfo
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.snapshot import Progress
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB
from testbed.operator_manifests import DONE, environment, rollout_job
from testbed.operator_world import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    POD,
    QUEUE,
    World,
    run_condition,
    running,
)

ROOT = Path(__file__).resolve().parents[4]
ARITHMETIC: list[Object] = list(yaml.safe_load_all((ROOT / "environments/arithmetic/environment.yaml").read_text()))
WORDS = json.dumps(DONE)


async def test_arithmetic_from_apply_to_complete() -> None:
    world = World()
    await world.apply(*ARITHMETIC)
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "arithmetic", "Serving") == ("True", "Available")
    assert await world.condition(GYM_ENVIRONMENT, "arithmetic", "AgentReady") == ("True", "NotRequired")
    assert await world.condition(ROLLOUT_JOB, "arithmetic", "Progressing") == ("True", "Collecting")
    await world.finish_job("arithmetic")
    await world.live()
    assert await world.condition(ROLLOUT_JOB, "arithmetic", "Progressing") == ("True", "Finalizing")
    await world.finish_job("arithmetic-finalise", words=WORDS)
    await world.live()
    assert await world.condition(ROLLOUT_JOB, "arithmetic", "Complete") == ("True", "Completed")
    status = (await world.get(ROLLOUT_JOB, "arithmetic"))["status"]
    assert status["manifestUri"] == DONE["manifestUri"]
    assert status["rollouts"] == DONE["rollouts"]
    assert status["workers"] == 0
    assert status["activeSeconds"] == 1, "a period that took no time counts as one second"


async def test_a_job_waits_for_its_environment_and_says_for_what() -> None:
    world = World()
    world.answers.bad["agent"] = "HTTP 503 the model is loading"
    await world.apply(environment(), rollout_job())
    await world.live()
    await world.pass_time(31)
    assert not await world.exists(JOB, "run")
    assert await run_condition(world, "EnvironmentReady") == ("False", "ProbeFailed")
    assert "the model is loading" in await world.message(ROLLOUT_JOB, "run", "EnvironmentReady")
    world.answers.bad.clear()
    await world.pass_time(2)
    assert await world.exists(JOB, "run")


async def test_suspend_and_resume() -> None:
    world = await running()
    await world.pass_time(100)
    await world.edit(ROLLOUT_JOB, "run", {"suspend": True})
    await world.live()
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is True
    assert await run_condition(world, "Suspended") == ("True", "Suspended")
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["activeSeconds"] == 100
    await world.pass_time(1000)
    await world.edit(ROLLOUT_JOB, "run", {"suspend": False})
    await world.live()
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is False
    assert await run_condition(world, "Progressing") == ("True", "Collecting")
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["activeSeconds"] == 100


async def test_workers_follow_parallelism_in_one_job() -> None:
    world = await running(parallelism=2)
    before = (await world.get(JOB, "run"))["metadata"]["uid"]
    for workers in (5, 1):
        await world.edit(ROLLOUT_JOB, "run", {"parallelism": workers})
        await world.live()
        job = await world.get(JOB, "run")
        assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (workers, workers)
        assert job["metadata"]["uid"] == before
    await world.edit(ROLLOUT_JOB, "run", {"parallelism": 0})
    await world.live()
    assert await run_condition(world, "Suspended") == ("True", "Suspended")
    assert (await world.get(JOB, "run"))["spec"]["completions"] == 1, "a Job of no completions would be complete"


async def test_with_a_queue_a_change_makes_another_job() -> None:
    world = World(KindInfo(QUEUE))
    await world.apply(queue("cpu"))
    await running(world=world, queue={"name": "cpu"}, parallelism=2)
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is True
    assert await run_condition(world, "Suspended") == ("True", "QuotaPending")
    await world.edit(JOB, "run", {"suspend": False})  # Kueue admits it
    await world.live()
    assert await run_condition(world, "Progressing") == ("True", "Collecting")
    await world.edit(ROLLOUT_JOB, "run", {"parallelism": 4})
    await world.live()
    assert not await world.exists(JOB, "run")
    assert (await world.get(JOB, "run-2"))["spec"]["parallelism"] == 4
    await world.edit(ROLLOUT_JOB, "run", {"suspend": True})
    await world.live()
    assert not await world.exists(JOB, "run-2")
    await world.edit(ROLLOUT_JOB, "run", {"suspend": False})
    await world.live()
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["jobName"] == "run-3"
    assert not [w for w in world.wrote if w.verb == "patch" and w.key.kind == JOB], "suspend is Kueue's"


async def test_a_queue_without_kueue_is_no_wait_for_quota() -> None:
    world = await running(queue={"name": "cpu"})
    assert await run_condition(world, "Stalled") == ("True", "KueueNotInstalled")
    assert await run_condition(world, "Progressing") == ("False", "KueueNotInstalled")
    assert "is not installed" in await world.message(ROLLOUT_JOB, "run", "Suspended")


async def test_a_queue_that_is_not_there_is_said_to_be_missing_until_it_comes() -> None:
    world = World(KindInfo(QUEUE))
    server = {"engine": "embedded", "queue": {"name": "gpu"}}
    await running(environment(models={"policy": {"server": server}}), world=world, queue={"name": "cpu"})
    assert await run_condition(world, "Progressing") == ("False", "QueueNotFound")
    assert await run_condition(world, "Stalled") == ("False", "NotStalled"), "it may still be applied"
    await world.pass_time(61)
    assert await run_condition(world, "Stalled") == ("True", "QueueNotFound")
    assert "kubectl get localqueues -n team" in await world.message(ROLLOUT_JOB, "run", "Stalled")
    await gate(world)
    assert await world.condition(MODEL_SERVER, "math-policy", "Stalled") == ("True", "QueueNotFound")
    assert await world.condition(GYM_ENVIRONMENT, "math", "Stalled") == ("True", "QueueNotFound")
    active = {"type": "Active", "status": "False", "reason": "ClusterQueueDoesNotExist", "message": "no ClusterQueue"}
    await world.apply(queue("cpu"), queue("gpu"))
    await world.set_status(QUEUE, "gpu", {"conditions": [active]})
    await world.pass_time(31)
    assert await run_condition(world, "Stalled") == ("False", "NotStalled")
    assert await world.condition(MODEL_SERVER, "math-policy", "Suspended") == ("True", "QuotaPending")
    assert "no ClusterQueue" in await world.message(MODEL_SERVER, "math-policy", "Suspended")


def queue(name: str) -> dict[str, Any]:
    return {"apiVersion": QUEUE.api_version, "kind": QUEUE.kind, "metadata": {"name": name}, "spec": {}}


async def gate(world: World) -> dict[str, Any]:
    """The pod of the model waits for Kueue."""
    await world.kube.patch(DEPLOYMENT, NAMESPACE, "math-policy", {"metadata": {"annotations": {"hold": "y"}}})
    pod = next(p for p in await world.kube.list(POD) if p["metadata"]["name"].startswith("math-policy-pod"))
    gates = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}
    await world.kube.patch(POD, NAMESPACE, pod["metadata"]["name"], {"spec": gates})
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    await world.set_status(POD, pod["metadata"]["name"], {"phase": "Pending", "conditions": [gated]})
    await world.set_status(DEPLOYMENT, "math-policy", {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1})
    await world.live()
    return pod


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        ({"podTemplate": {"spec": {"containers": [{"name": "worker", "command": ["sh"]}]}}}, "InvalidPodTemplate"),
        ({}, "AdmissionRefused"),
    ],
)
async def test_a_job_whose_pods_cannot_be_made_ends_at_its_deadline(worker: dict[str, Any], reason: str) -> None:
    world = World()
    if not worker:
        refused = Forbidden("admission webhook denied the request", status=403)
        world.kube.fail(refused, verb="create", kind="Job", times=1000)
    await world.apply(environment(), rollout_job(preRunningDeadlineSeconds=300, worker=worker))
    await world.live()
    assert await run_condition(world, "Stalled") == ("True", reason)
    await world.pass_time(299)
    assert await run_condition(world, "Stalled") == ("True", reason)
    await world.pass_time(2)
    assert await run_condition(world, "Failed") == ("True", "PreRunningDeadlineExceeded")
    said = await world.message(ROLLOUT_JOB, "run", "Failed")
    assert "command" in said if worker else "denied" in said
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["completionTime"]
    assert await world.restart(world.context) == []


async def test_a_job_that_waits_for_quota_wakes_nothing() -> None:
    world = World(KindInfo(QUEUE))
    idle = {"scaleToZeroAfterSeconds": 60}
    await running(environment(idlePolicy=idle), world=world, queue={"name": "cpu"})
    await world.pass_time(61)
    await world.pass_time(61)
    assert (await world.get(DEPLOYMENT, "math-agent"))["spec"]["replicas"] == 0
    await world.edit(JOB, "run", {"suspend": False})  # Kueue admits it
    await world.live()
    assert (await world.get(DEPLOYMENT, "math-agent"))["spec"]["replicas"] == 1
    assert await run_condition(world, "Progressing") == ("True", "Collecting")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"agent": {"maxSteps": 3}}, id="agent"),
        pytest.param({"resources": {"config": {"difficulty": 2}}}, id="config"),
        pytest.param({"models": {"policy": {"server": {"engine": "simulated"}}}}, id="model"),
    ],
)
async def test_another_environment_ends_the_run(change: Object) -> None:
    world = await running()
    await world.edit(GYM_ENVIRONMENT, "math", change)
    await world.live()
    assert await run_condition(world, "Failed") == ("True", "EnvironmentChanged")
    assert "math" in await world.message(ROLLOUT_JOB, "run", "Failed")
    assert not await world.exists(JOB, "run")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"agent": {"replicas": 4}}, id="replicas"),
        pytest.param({"idlePolicy": {"scaleToZeroAfterSeconds": 60}}, id="idle"),
        pytest.param({"models": {"policy": {"server": {"replicas": 3}}}}, id="model replicas"),
        pytest.param(
            {"models": {"policy": {"server": {"weights": {"uri": "s3://b/w", "version": 7}}}}}, id="policy weights"
        ),
    ],
)
async def test_pace_and_policy_weights_may_change(change: Object) -> None:
    world = await running()
    await world.edit(GYM_ENVIRONMENT, "math", change)
    await world.live()
    assert await run_condition(world, "Failed") == ("False", "NotFinished")
    assert await world.exists(JOB, "run")


async def test_too_many_failed_rollouts_halt_the_run() -> None:
    world = World()
    world.answers.progress = Progress(
        rollouts={"expected": 100, "scored": 20, "unscored": 0, "failed": 6},
        failures={"VerifierError": 5, "Timeout": 1},
    )
    await running(world=world)
    await world.pass_time(30)
    assert await run_condition(world, "RewardIntegrity") == ("False", "RolloutFailureBudgetExceeded")
    assert await run_condition(world, "Failed") == ("True", "RolloutFailureBudgetExceeded")
    message = await world.message(ROLLOUT_JOB, "run", "Failed")
    assert "6 of 100" in message
    assert "VerifierError 5" in message
    assert not await world.exists(JOB, "run")


async def test_a_manifest_above_the_budget_is_no_success() -> None:
    world = await running()
    await world.finish_job("run")
    await world.live()
    words = {**DONE, "rollouts": {"expected": 16, "scored": 10, "unscored": 0, "failed": 6}}
    await world.finish_job("run-finalise", words=json.dumps(words))
    await world.live()
    assert await run_condition(world, "Complete") == ("False", "NotFinished")
    assert await run_condition(world, "Failed") == ("True", "RolloutFailureBudgetExceeded")
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["manifestUri"] == DONE["manifestUri"]


async def test_the_last_words_of_a_worker_are_the_reason() -> None:
    world = await running()
    words = json.dumps({"reason": "PlanConflict", "message": "the output holds another plan: rolloutsPerTask"})
    await world.fail_job("run", code=11, words=words, reason="PodFailurePolicy")
    await world.live()
    assert await run_condition(world, "Failed") == ("True", "PlanConflict")
    assert await run_condition(world, "Stalled") == ("True", "PlanConflict")
    assert "rolloutsPerTask" in await world.message(ROLLOUT_JOB, "run", "Failed")


async def test_a_finaliser_that_fails_fails_the_run() -> None:
    world = await running()
    await world.finish_job("run")
    await world.live()
    await world.fail_job("run-finalise", words="bucket gone")
    await world.live()
    assert await run_condition(world, "Failed") == ("True", "FinalizationFailed")
    assert "bucket gone" in await world.message(ROLLOUT_JOB, "run", "Failed")


async def test_active_seconds_add_up_over_suspensions_to_the_deadline() -> None:
    world = await running(activeDeadlineSeconds=100)
    for suspended in (True, False):
        await world.pass_time(60)
        await world.edit(ROLLOUT_JOB, "run", {"suspend": suspended})
        await world.live()
    await world.pass_time(39)
    assert await run_condition(world, "Failed") == ("False", "NotFinished")
    await world.pass_time(1)
    assert await run_condition(world, "Failed") == ("True", "DeadlineExceeded")
    assert not await world.exists(JOB, "run")


async def test_a_run_that_never_starts_says_what_it_waited_for() -> None:
    world = World()
    await world.apply(rollout_job(preRunningDeadlineSeconds=300))
    await world.live()
    assert await run_condition(world, "EnvironmentReady") == ("False", "EnvironmentNotFound")
    assert await run_condition(world, "Stalled") == ("False", "NotStalled")
    await world.pass_time(61)
    assert await run_condition(world, "Stalled") == ("True", "EnvironmentNotFound")
    await world.pass_time(240)
    assert await run_condition(world, "Failed") == ("True", "PreRunningDeadlineExceeded")
    assert "there is no GymEnvironment 'math'" in await world.message(ROLLOUT_JOB, "run", "Failed")


async def test_a_finished_run_goes_after_its_time_to_live() -> None:
    world = await running(ttlSecondsAfterFinished=50)
    await world.finish_job("run")
    await world.live()
    await world.finish_job("run-finalise", words=WORDS)
    await world.live()
    await world.pass_time(49)
    assert await world.exists(ROLLOUT_JOB, "run")
    await world.pass_time(1)
    assert not await world.exists(ROLLOUT_JOB, "run")
    assert not await world.exists(JOB, "run"), "its children go with it"


async def test_a_finished_output_completes_without_waking_a_model() -> None:
    world = World()
    await world.apply(environment(idlePolicy={"scaleToZeroAfterSeconds": 600}))
    await world.live()
    await world.pass_time(600)
    await world.apply(rollout_job())
    await world.live()
    assert await run_condition(world, "EnvironmentReady") == ("False", "CheckingOutput")
    await world.finish_job("run-finalise", words=WORDS)
    await world.live()
    assert await run_condition(world, "Complete") == ("True", "Completed")
    assert (await world.get(DEPLOYMENT, "math-policy"))["spec"]["replicas"] == 0
    assert not await world.exists(JOB, "run")


async def test_another_plan_in_the_output_fails_without_waking_a_model() -> None:
    world = World()
    await world.apply(environment(idlePolicy={"scaleToZeroAfterSeconds": 600}))
    await world.live()
    await world.pass_time(600)
    await world.apply(rollout_job())
    await world.live()
    words = '{"reason": "PlanConflict", "message": "rolloutsPerTask differs"}'
    await world.fail_job("run-finalise", code=11, words=words, reason="PodFailurePolicy")
    await world.live()
    assert await run_condition(world, "Failed") == ("True", "PlanConflict")
    assert (await world.get(DEPLOYMENT, "math-policy"))["spec"]["replicas"] == 0


async def test_a_preempted_model_pauses_its_jobs_at_once() -> None:
    world = World(KindInfo(QUEUE))
    server = {"engine": "embedded", "queue": {"name": "gpu"}}
    await world.apply(queue("gpu"))
    await running(environment(models={"policy": {"server": server}}), world=world)
    pod = await gate(world)
    assert await world.condition(MODEL_SERVER, "math-policy", "Suspended") == ("True", "QuotaPending")
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is True
    assert await run_condition(world, "Suspended") == ("True", "EnvironmentNotReady")
    await world.set_status(
        POD,
        pod["metadata"]["name"],
        {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        },
    )
    await world.set_status(
        DEPLOYMENT, "math-policy", {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    )
    await world.live()
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is False
    assert await run_condition(world, "Failed") == ("False", "NotFinished")


async def test_a_restarting_pod_does_not_stop_the_workers_soon() -> None:
    world = await running()
    await world.kube.patch(DEPLOYMENT, NAMESPACE, "math-agent", {"metadata": {"annotations": {"hold": "y"}}})
    await world.set_status(DEPLOYMENT, "math-agent", {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1})
    await world.live()
    assert await run_condition(world, "EnvironmentReady") == ("False", "Progressing")
    await world.pass_time(119)
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is False
    await world.pass_time(1)
    assert (await world.get(JOB, "run"))["spec"]["suspend"] is True


async def test_a_jobs_workers_deleted_by_hand_come_back_under_the_next_number() -> None:
    world = await running()
    await world.kube.delete(JOB, NAMESPACE, "run")
    await world.live()
    assert await world.exists(JOB, "run-2")
    assert (await world.get(ROLLOUT_JOB, "run"))["status"]["jobName"] == "run-2"


async def test_several_environments_in_one_run() -> None:
    world = await running(environment("math"), environment("code"), environments=("math", "code"))
    status = (await world.get(ROLLOUT_JOB, "run"))["status"]
    assert [entry["name"] for entry in status["environments"]] == ["code", "math"]
    run = json.loads((await world.get(CONFIG_MAP, "run-run"))["data"]["run.json"])
    assert set(run["environments"]) == {"math", "code"}
    await world.edit(GYM_ENVIRONMENT, "code", {"agent": {"maxSteps": 3}})
    await world.live()
    assert await world.message(ROLLOUT_JOB, "run", "Failed") == (await world.message(ROLLOUT_JOB, "run", "Stalled"))
    assert "environment code" in await world.message(ROLLOUT_JOB, "run", "Failed")


async def test_an_entry_brings_its_own_model() -> None:
    world = World()
    job = rollout_job()
    job["spec"]["environments"][0]["models"] = {"policy": {"server": {"engine": "simulated"}}}
    await world.apply(environment(models={}, agent={"placement": "Worker"}), job)
    await world.live()
    assert await world.exists(MODEL_SERVER, "run-math-policy")
    assert await run_condition(world, "Progressing") == ("True", "Collecting")
    await world.edit(ROLLOUT_JOB, "run", {"suspend": True})
    await world.live()
    assert (await world.get(DEPLOYMENT, "run-math-policy"))["spec"]["replicas"] == 0
    await world.edit(ROLLOUT_JOB, "run", {"suspend": False})
    await world.live()
    await world.finish_job("run")
    await world.live()
    await world.finish_job("run-finalise", words=WORDS)
    await world.live()
    assert not await world.exists(MODEL_SERVER, "run-math-policy"), "a finished run holds no accelerator"


@pytest.mark.parametrize(("role", "part"), [("policy", "agent"), ("judge", "resources")])
async def test_a_model_of_a_job_that_nobody_would_ask_is_refused(role: str, part: str) -> None:
    """Rows of another model than the job names would be silently wrong."""
    world = World()
    job = rollout_job()
    job["spec"]["environments"][0]["models"] = {role: {"server": {"engine": "simulated"}}}
    await world.apply(environment(agent={"placement": "Service" if part == "agent" else "Worker"}), job)
    await world.live()
    assert await run_condition(world, "Stalled") == ("True", "InvalidSpec")
    said = await world.message(ROLLOUT_JOB, "run", "Stalled")
    assert said.startswith(f"environments[math].models.{role}: ")
    assert f"spec.{part}.placement" in said
    assert not await world.exists(JOB, "run")
    await world.edit(GYM_ENVIRONMENT, "math", {part: {"placement": "Worker"}})
    await world.live()
    assert await run_condition(world, "Progressing") == ("True", "Collecting")


async def test_an_agent_in_pods_of_its_own_needs_a_policy() -> None:
    world = World()
    await world.apply(environment(models={}))
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "Stalled") == ("True", "InvalidSpec")
    assert "spec.models.policy: is required" in await world.message(GYM_ENVIRONMENT, "math", "Stalled")
    assert not await world.exists(DEPLOYMENT, "math-agent")
    await world.edit(GYM_ENVIRONMENT, "math", {"agent": {"placement": "Worker"}})
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "Ready") == ("True", "Available")


async def test_without_a_policy_the_job_says_where_to_name_one() -> None:
    world = await running(environment(models={}))
    assert await run_condition(world, "Stalled") == ("True", "InvalidSpec")
    assert "models.policy" in await world.message(ROLLOUT_JOB, "run", "Stalled")


async def test_a_run_that_another_controller_manages_is_left_alone() -> None:
    world = await running(managedBy="kueue.x-k8s.io/multikueue")
    assert (await world.get(ROLLOUT_JOB, "run"))["status"] == {"observedGeneration": -1}
    assert not await world.exists(JOB, "run")


async def test_progress_is_written_once_in_thirty_seconds() -> None:
    world = World()
    world.answers.progress = Progress(
        rollouts={"expected": 100, "scored": 1},
        plan_digest="abc",
        throughput="2.0",
        last_progress_time="2026-01-01T00:00:00Z",
    )
    await running(world=world)
    await world.pass_time(30)
    status = (await world.get(ROLLOUT_JOB, "run"))["status"]
    assert status["rollouts"] == {"expected": 100, "scored": 1}
    assert status["estimatedCompletionTime"] == "2026-01-01T00:00:49Z"
    assert await run_condition(world, "PlanCommitted") == ("True", "PlanCommitted")
    for scored in range(2, 32):
        world.answers.progress = Progress(rollouts={"expected": 100, "scored": scored})
        await world.edit(ROLLOUT_JOB, "run", {"concurrency": scored})  # events that have nothing to do with it
        world.clock.at += 1
        world.wrote.clear()
        await world.live()
        statuses = [w for w in world.wrote if w.verb == "apply_status" and w.key.kind == ROLLOUT_JOB]
        assert len(statuses) <= 2, "the generation, and in the last of them the figures"
    assert world.answers.reads == 2
