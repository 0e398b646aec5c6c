"""The test bed itself: what the tests of this tier rely on is so."""

from __future__ import annotations

import pytest

from testbed.k8s.api import Object, Refused
from testbed.k8s.cluster import Cluster, KubectlFailed
from testbed.k8s.kueue import queue
from testbed.k8s.kwok import EXIT_CODE, HOLD, MESSAGE, POD_IP, RUN, SIGTERM_AFTER
from testbed.k8s.process import until


def template(annotations: dict[str, str] | None = None, **resources: str) -> Object:
    container = {"name": "main", "image": "none.invalid/none:1", "resources": {"limits": resources}}
    return {
        "metadata": {"annotations": annotations or {}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]},
    }


def pod(name: str, annotations: dict[str, str] | None = None, **resources: str) -> Object:
    made = template(annotations, **resources)
    return {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {"name": name, **made["metadata"]}}


def job(name: str, annotations: dict[str, str], **spec: object) -> Object:
    spec = {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 0, **spec}
    spec.setdefault("template", template(annotations))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def condition(obj: Object, kind: str) -> Object:
    return next((found for found in obj.get("status", {}).get("conditions", []) if found["type"] == kind), {})


def test_job_completes(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job("counted", {RUN: "200ms"}), namespace)

    cluster.wait("job/counted", "Complete", namespace)
    found = cluster.api.get("batch/v1", "Job", "counted", namespace)
    assert found is not None
    assert found["status"]["completedIndexes"] == "0-2"


def test_exit_code_decides_over_a_job(cluster: Cluster, namespace: str) -> None:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [11]}}]}
    told = {RUN: "100ms", EXIT_CODE: "11", MESSAGE: '{"reason":"PlanConflict"}'}
    cluster.apply(job("lost", told, podFailurePolicy=policy), namespace)

    cluster.wait("job/lost", "Failed", namespace)
    found = cluster.api.get("batch/v1", "Job", "lost", namespace)
    assert found is not None
    assert condition(found, "Failed")["reason"] == "PodFailurePolicy"
    (first, *_) = [pod for pod in cluster.pods.list(namespace) if pod["status"]["phase"] == "Failed"]
    ended = first["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (11, '{"reason":"PlanConflict"}')


def test_gpu_pods_are_scheduled_while_there_are_gpus(cluster: Cluster, namespace: str) -> None:
    gpus = {"nvidia.com/gpu": "8"}
    for name in ("first", "second"):
        cluster.api.create(pod(name, **gpus), namespace)
    nodes = {found["spec"]["nodeName"] for found in cluster.pods.wait(namespace, count=2)}
    cluster.api.create(pod("third", **gpus), namespace)

    assert nodes == {"gpu-0", "gpu-1"}
    until(
        lambda: condition(cluster.pods.get(namespace, "third"), "PodScheduled").get("reason") == "Unschedulable",
        "the third pod is told that there is no GPU left",
    )
    assert "Insufficient nvidia.com/gpu" in condition(cluster.pods.get(namespace, "third"), "PodScheduled")["message"]


def test_evicted_pod_of_a_job_is_replaced_and_not_counted(cluster: Cluster, namespace: str) -> None:
    policy = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    cluster.apply(job("moved", {}, podFailurePolicy=policy, podReplacementPolicy="Failed"), namespace)
    before = {found["metadata"]["name"] for found in cluster.pods.wait(namespace, count=3)}
    evicted = min(before)

    cluster.pods.evict(namespace, evicted)

    until(
        lambda: evicted not in {found["metadata"]["name"] for found in cluster.pods.wait(namespace, count=3)},
        "another pod runs in place of the evicted one",
    )
    found = cluster.api.get("batch/v1", "Job", "moved", namespace)
    assert found is not None
    assert found["status"].get("failed", 0) == 0
    for running in cluster.pods.wait(namespace, count=3):
        cluster.pods.succeed(namespace, running["metadata"]["name"])
    cluster.wait("job/moved", "Complete", namespace)


def test_eviction_that_a_budget_forbids(cluster: Cluster, namespace: str) -> None:
    labels = {"app": "guarded"}
    made = template()
    made["metadata"]["labels"] = labels
    made["spec"]["restartPolicy"] = "Always"
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": made}
    budget = {"selector": {"matchLabels": labels}, "maxUnavailable": 0}
    cluster.apply(
        [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"}, "spec": spec},
            {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "guarded"}, "spec": budget},
        ],
        namespace,
    )
    (running,) = cluster.pods.wait(namespace)
    cluster.wait("deployment/guarded", "Available", namespace)

    with pytest.raises(Refused) as refused:
        cluster.pods.evict(namespace, running["metadata"]["name"])
    assert refused.value.code == 429


def test_pods_get_what_they_are_told(cluster: Cluster, namespace: str) -> None:
    cluster.api.create(pod("told", {POD_IP: "127.0.0.1"}), namespace)
    (running,) = cluster.pods.wait(namespace)
    assert running["status"]["podIP"] == "127.0.0.1"

    cluster.pods.crash(namespace, "told", 137, "OOMKilled", "out of memory")
    crashed = cluster.pods.get(namespace, "told")["status"]["containerStatuses"][0]
    assert crashed["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert crashed["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert crashed["restartCount"] == 1

    cluster.pods.run(namespace, "told")
    assert condition(cluster.pods.get(namespace, "told"), "Ready")["status"] == "True"

    cluster.pods.hold_back(namespace, "told", "ImagePullBackOff", "no such image")
    held = cluster.pods.get(namespace, "told")["status"]
    assert (held["phase"], held["containerStatuses"][0]["state"]["waiting"]["message"]) == ("Pending", "no such image")

    cluster.pods.run(namespace, "told")
    cluster.pods.fail(namespace, "told", 11, message="last words")
    failed = cluster.pods.get(namespace, "told")["status"]
    assert (failed["phase"], failed["containerStatuses"][0]["state"]["terminated"]["message"]) == (
        "Failed",
        "last words",
    )


def test_held_pod_stays_pending(cluster: Cluster, namespace: str) -> None:
    cluster.api.create(pod("held", {HOLD: "true"}), namespace)
    cluster.api.create(pod("free"), namespace)
    cluster.pods.wait(namespace)  # KWOK has seen both
    assert cluster.pods.get(namespace, "held")["status"]["phase"] == "Pending"

    cluster.pods.run(namespace, "held")
    cluster.pods.wait(namespace, count=2)


def test_deleted_pod_takes_its_time_to_end(cluster: Cluster, namespace: str) -> None:
    cluster.api.create(pod("quick", {SIGTERM_AFTER: "1s"}), namespace)
    cluster.api.create(pod("slow", {SIGTERM_AFTER: "10h"}), namespace)
    cluster.pods.wait(namespace, count=2)

    for name in ("slow", "quick"):
        cluster.api.delete("v1", "Pod", name, namespace)

    until(lambda: len(cluster.pods.list(namespace)) == 1, "one pod is gone")
    assert "deletionTimestamp" in cluster.pods.get(namespace, "slow")["metadata"]
    cluster.pods.succeed(namespace, "slow")
    until(lambda: not cluster.pods.list(namespace), "so is the other one, when it has ended")


def test_api_server_that_is_away_comes_back(cluster: Cluster, namespace: str) -> None:
    with cluster.plane.without("kube-apiserver"):
        assert not cluster.api.answers()

    cluster.apply(job("after", {RUN: "100ms"}), namespace)
    cluster.wait("job/after", "Complete", namespace)


def test_writes_are_counted_by_client(cluster: Cluster, namespace: str) -> None:
    before = len(cluster.plane.writes("kubectl"))
    cluster.kubectl("create", "configmap", "written", namespace=namespace)
    cluster.kubectl("get", "configmaps", namespace=namespace)

    until(lambda: len(cluster.plane.writes("kubectl")) > before, "the write is in the audit log")
    (written,) = cluster.plane.writes("kubectl")[before:]
    assert (written["verb"], written["objectRef"]["name"]) == ("create", "written")


def test_service_account_may_no_more_than_it_may(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.kubeconfig_of(namespace, "default")

    with pytest.raises(KubectlFailed, match="cannot list resource"):
        cluster.kubectl("get", "secrets", kubeconfig=kubeconfig)


def test_kueue_admits_suspended_jobs_as_quota_allows(kueue_cluster: Cluster, kueue_namespace: str) -> None:
    kueue_cluster.apply(queue("team", kueue_namespace, nvidia_com__gpu="4"))
    for name in ("first", "second"):
        waiting = job(name, {}, suspend=True, template=template({}, **{"nvidia.com/gpu": "1"}))
        waiting["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
        kueue_cluster.apply(waiting, kueue_namespace)
        # The order of admission is the order of creation, which has a resolution of seconds: one after the other.
        if name == "first":
            admitted = kueue_cluster.pods.wait(kueue_namespace, "job-name=first", count=3)

    until(
        lambda: any(
            condition(found, "QuotaReserved").get("reason") == "Pending"
            for found in kueue_cluster.api.list("kueue.x-k8s.io/v1beta2", "Workload", kueue_namespace)
        ),
        "the second Job is told that it waits for quota",
    )
    assert not kueue_cluster.pods.list(kueue_namespace, "job-name=second")
    for running in admitted:
        kueue_cluster.pods.succeed(kueue_namespace, running["metadata"]["name"])
    kueue_cluster.pods.wait(kueue_namespace, "job-name=second", count=3)


def test_leader_worker_set_makes_groups_of_pods(kueue_cluster: Cluster, kueue_namespace: str) -> None:
    made = template()
    made["spec"]["restartPolicy"] = "Always"
    spec = {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": made}}
    api_version = "leaderworkerset.x-k8s.io/v1"
    kueue_cluster.apply(
        {"apiVersion": api_version, "kind": "LeaderWorkerSet", "metadata": {"name": "pair"}, "spec": spec},
        kueue_namespace,
    )

    kueue_cluster.wait("leaderworkersets/pair", "Available", kueue_namespace)
    assert [pod["metadata"]["name"] for pod in kueue_cluster.pods.list(kueue_namespace)] == ["pair-0", "pair-0-1"]
