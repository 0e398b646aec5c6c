"""What keeps pods from running, in the words of whoever says it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.failures import (
    CREATING_GRACE,
    UNSCHEDULABLE_GRACE,
    Trouble,
    first_trouble,
    job_failure,
    pod_trouble,
    success_words,
    unsettled_until,
    workload_trouble,
)
from kubegym_operator.plan.times import rfc3339

NOW = 1_800_000_000.0
TEMPLATE = {
    "containers": [{"name": "main", "resources": {"limits": {"memory": "1Gi"}}}],
    "volumes": [{"name": "key", "secret": {"secretName": "my-key"}}, {"name": "c", "configMap": {"name": "rows"}}],
}


def pod(*, scheduled: Object | None = None, phase: str = "Pending", **status: Any) -> Object:
    conditions = [{"type": "PodScheduled", "status": "True"} | (scheduled or {})]
    return {"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": conditions, **status}}


def container(state: Object, last: Object | None = None, **more: Any) -> Object:
    return {"name": "main", "ready": False, "restartCount": 3, "state": state, "lastState": last or {}, **more}


def waiting(reason: str, message: str = "", last: Object | None = None) -> Object:
    return pod(containerStatuses=[container({"waiting": {"reason": reason, "message": message}}, last)])


def unschedulable(age: float) -> Object:
    words = {"status": "False", "reason": "Unschedulable", "message": "0/4 nodes: 4 Insufficient nvidia.com/gpu"}
    return pod(scheduled=words | {"lastTransitionTime": rfc3339(NOW - age)})


def ended(code: int, message: str, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": rfc3339(NOW)}}


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        pytest.param(unschedulable(UNSCHEDULABLE_GRACE), "Unschedulable", "Insufficient nvidia.com/gpu", id="no node"),
        pytest.param(waiting("ErrImagePull", "manifest unknown"), "ImagePullBackOff", "manifest unknown", id="pull"),
        pytest.param(waiting("InvalidImageName", "bad ref"), "ImagePullBackOff", "bad ref", id="image name"),
        pytest.param(
            waiting("CreateContainerConfigError", 'secret "k" not found'),
            "CreateContainerConfigError",
            'secret "k" not found',
            id="secret",
        ),
        pytest.param(
            waiting("CrashLoopBackOff", "back-off", ended(3, "no model at /weights")),
            "CrashLoopBackOff",
            "exit code 3, 3 restarts so far: no model at /weights",
            id="last words",
        ),
        pytest.param(
            waiting("CrashLoopBackOff", last=ended(1, json.dumps({"reason": "X", "message": "port in use"}))),
            "CrashLoopBackOff",
            "port in use",
            id="last words of ours",
        ),
        pytest.param(waiting("CrashLoopBackOff"), "CrashLoopBackOff", "said nothing", id="silent"),
        pytest.param(
            waiting("CrashLoopBackOff", last=ended(137, "", "OOMKilled")), "OOMKilled", "(limit 1Gi)", id="memory"
        ),
        pytest.param(
            pod(phase="Failed", reason="Evicted", message="low on disk"), "Evicted", "low on disk", id="evicted"
        ),
        pytest.param(
            pod(
                scheduled={"lastTransitionTime": rfc3339(NOW - CREATING_GRACE)},
                containerStatuses=[container({"waiting": {"reason": "ContainerCreating"}})],
            ),
            "CreateContainerConfigError",
            "Secret my-key, ConfigMap rows",
            id="volumes",
        ),
    ],
)
def test_trouble(seen: Object, reason: str, words: str) -> None:
    trouble = pod_trouble(seen, NOW, TEMPLATE)
    assert trouble is not None
    assert (trouble.reason, trouble.waits) == (reason, False)
    assert words in trouble.message
    assert "p" in trouble.message


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(pod(phase="Running", containerStatuses=[container({"running": {}})]), id="runs"),
        pytest.param(unschedulable(UNSCHEDULABLE_GRACE - 1), id="just created"),
        pytest.param(waiting("ContainerCreating"), id="creating"),
        pytest.param({**waiting("CrashLoopBackOff"), "metadata": {"name": "p", "deletionTimestamp": "x"}}, id="ending"),
        pytest.param(pod(phase="Failed", containerStatuses=[container(ended(1, "x"))]), id="failed: the Job tells"),
    ],
)
def test_no_trouble(seen: Object) -> None:
    assert pod_trouble(seen, NOW, TEMPLATE) is None


def test_gates_are_waited_for() -> None:
    gated = pod(scheduled={"status": "False", "reason": "SchedulingGated"})
    gated["spec"] = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}
    trouble = pod_trouble(gated, NOW)
    assert trouble == Trouble("QuotaPending", "pod p waits for kueue.x-k8s.io/admission", waits=True)
    crashing = waiting("CrashLoopBackOff")
    crashing["metadata"]["name"] = "z"
    worst = first_trouble([gated, crashing], NOW)
    assert worst is not None
    assert worst.reason == "CrashLoopBackOff", "what does not end by itself comes first"


def test_a_grace_is_looked_at_when_it_is_over() -> None:
    assert unsettled_until([unschedulable(4)], NOW) == UNSCHEDULABLE_GRACE - 4
    assert unsettled_until([unschedulable(400)], NOW) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('pods "a" is forbidden: exceeded quota: team, requested: cpu=2, used: cpu=8, limited: cpu=8', "QuotaExceeded"),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "AdmissionRefused"),
        ('admission webhook "policy.example" denied the request: no latest tags', "AdmissionRefused"),
    ],
)
def test_refusals_of_pods(words: str, reason: str) -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}
    deployment = {"kind": "Deployment", "metadata": {"name": "d"}, "status": {"conditions": [failed]}}
    trouble = workload_trouble(deployment, [], NOW)
    assert trouble == Trouble(reason, f"Deployment d: {words}")


def job(reason: str, message: str = "it failed") -> Object:
    failed = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    return {"metadata": {"name": "j"}, "status": {"conditions": [failed]}}


def worker(code: int, message: str, name: str = "w", at: float = NOW) -> Object:
    state = ended(code, message)
    state["terminated"]["finishedAt"] = rfc3339(at)
    return {"metadata": {"name": name}, "status": {"phase": "Failed", "containerStatuses": [container(state)]}}


def test_exit_code_11_speaks_for_the_whole_job() -> None:
    words = json.dumps({"reason": "ObjectStoreDenied", "message": "403 on s3://b"})
    pods = [worker(11, words, "a"), worker(1, "later", "b", NOW + 5)]
    assert job_failure(job("PodFailurePolicy"), pods) == Trouble("ObjectStoreDenied", "403 on s3://b")


def test_a_burnt_budget_of_retries_quotes_the_last_pod() -> None:
    pods = [worker(1, "first", "a"), worker(1, "second", "b", NOW + 5)]
    failure = job_failure(job("BackoffLimitExceeded", "Job has reached the limit"), pods)
    assert failure is not None
    assert failure.reason == "BackoffLimitExceeded"
    assert failure.message == "Job j: Job has reached the limit. Pod b ended with exit code 1: second"


@pytest.mark.parametrize("reason", ["PodFailurePolicy", "DeadlineExceeded"])
def test_a_failed_job_without_words(reason: str) -> None:
    failure = job_failure(job(reason), [])
    assert failure is not None
    assert failure.reason == ("WorkerFailed" if reason == "PodFailurePolicy" else reason)


def test_a_running_job_has_not_failed() -> None:
    assert job_failure({"metadata": {"name": "j"}, "status": {"active": 1}}, [worker(1, "once")]) is None


def test_the_last_words_of_success_are_an_object() -> None:
    assert success_words([worker(0, '{"complete": true}')]) == {"complete": True}
    assert success_words([worker(0, "done"), worker(1, '{"complete": true}')]) is None
