"""Runs of the sample environment on a kind cluster: apply, wait, look, and clear away."""

from __future__ import annotations

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

API = "kubegym.dev/v1alpha1"
SAMPLES = sorted(manifest.parent for manifest in (ROOT / "environments").glob("*/environment.yaml"))
ARITHMETIC = ROOT / "environments" / "arithmetic"
DONE_SECONDS = 600.0  # for a machine under load; half a minute otherwise


@contextmanager
def applied(cluster: KindCluster, manifests: list[Object]) -> Iterator[None]:
    """Objects in the ready namespace; on leaving they are gone, and what their jobs have stored."""
    try:
        cluster.apply(manifests, namespace=NAMESPACE)
        yield
    finally:
        for each in manifests:
            cluster.kubectl("delete", each["kind"], each["metadata"]["name"], "--ignore-not-found", namespace=NAMESPACE)
        for each in manifests:
            if each["kind"] == "RolloutJob":
                remove(cluster, NAMESPACE, each["spec"]["output"]["uri"])


def sample(folder: Path = ARITHMETIC) -> list[Object]:
    """The manifests in an environment's folder: the environment, and its sample job.

    Where it asks a model of the user's own (with eyes, with a long context), the simulated one stands in.
    """
    environment, job = yaml.safe_load_all((folder / "environment.yaml").read_text())
    for role, binding in environment["spec"]["models"].items():
        if "endpoint" in binding:
            environment["spec"]["models"][role] = {"server": {"engine": "simulated"}}
    return [environment, job]


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


def failure(cluster: KindCluster, job: str) -> Object:
    """Wait until a job has failed; the conditions of its status, by type."""
    found: Object = {}

    def failed() -> bool:
        status = (cluster.api.get(API, "RolloutJob", job, NAMESPACE) or {}).get("status") or {}
        found.update({each["type"]: each for each in status.get("conditions", [])})
        assert found.get("Complete", {}).get("status") != "True", f"{job} is Complete"
        return bool(found.get("Failed", {}).get("status") == "True")

    until(failed, f"{job} has failed", seconds=DONE_SECONDS)
    return found


def greedy(name: str, agent: str, resources: str, *, rollouts: int = 1, **spec: object) -> list[Object]:
    """The sample with each part where it is told, and a job ``name`` without chance in its answers."""
    environment, job = sample()
    job["metadata"]["name"] = name
    environment["spec"]["agent"]["placement"] = agent
    environment["spec"]["resources"]["placement"] = resources
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
    labels = f"kubegym.dev/rolloutjob-name={job},app.kubernetes.io/component=worker"
    pods = cluster.api.list("v1", "Pod", NAMESPACE, labels)
    return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == phase]
