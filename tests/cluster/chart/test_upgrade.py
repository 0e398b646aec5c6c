"""An upgrade, a rollback and an uninstall restart nothing (DESIGN section 5, rule 2)."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.helm import CHART, NAMESPACE, RELEASE, Helm, Object
from testbed.k8s.cluster import Cluster
from testbed.k8s.kwok import POD_IP
from testbed.k8s.process import until
from testbed.pod_answers import pod_answers
from testbed.released import released

ROOT = CHART.parents[1]
TEAM = "upgraded"
ENVIRONMENTS, JOBS = 50, 10
PARTS = 3 * ENVIRONMENTS + JOBS
SECONDS = 600
PATIENT = {"settings": {"LEASE_DURATION_SECONDS": "180", "LEASE_RENEW_SECONDS": "120"}}  # nobody starts it again here


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the commit before the last that changed chart or operator; this tree where there is none."""
    git = ("git", "-C", str(ROOT))
    log = subprocess.run([*git, "log", "-2", "--format=%H", "--", "charts/kubegym", "operator"], capture_output=True)
    commits = log.stdout.decode().split()
    if log.returncode != 0 or len(commits) < 2:
        print("no earlier commit in this checkout: the upgrade is one from this tree to itself with other images")
        return ROOT
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(
        [*git, "archive", commits[1], "charts", "operator", "services/kubegym/core", "services/kubegym/__init__.py"],
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def environment(number: int, address: str) -> Object:
    pods = {"podTemplate": {"metadata": {"annotations": {POD_IP: address}}}}
    spec = {
        "models": {"policy": {"server": {"engine": "simulated", "replicas": 1, **pods}}},
        "resources": {"image": "registry.example.org/environment:1", **pods},
        "agent": pods,
    }
    return {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": f"env-{number}", "namespace": TEAM},
        "spec": spec,
    }


def job(number: int, address: str) -> Object:
    dataset = {"uri": "s3://data/rows.jsonl"}
    entry = {"name": "only", "environmentRef": {"name": f"env-{number}"}, "dataset": dataset}
    spec = {
        "environments": [entry],
        "parallelism": 1,
        "output": {"uri": f"s3://runs/{number}/"},
        "worker": {"podTemplate": {"metadata": {"annotations": {POD_IP: address}}}},
    }
    return {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "RolloutJob",
        "metadata": {"name": f"run-{number}", "namespace": TEAM},
        "spec": spec,
    }


def pods(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Every pod that is there and not about to go: its identity, and how often its containers started again."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            sum(container["restartCount"] for container in pod["status"].get("containerStatuses", ())),
        )
        for pod in cluster.pods.list(TEAM)
        if "deletionTimestamp" not in pod["metadata"]
    }


def generations(cluster: Cluster) -> dict[str, int]:
    """How often the spec of each Deployment and Job was changed."""
    return {
        f"{kind}/{one['metadata']['name']}": one["metadata"]["generation"]
        for version, kind in (("apps/v1", "Deployment"), ("batch/v1", "Job"))
        for one in cluster.api.list(version, kind, TEAM)
    }


@contextmanager
def operating(cluster: Cluster, folder: Path, sources: Path) -> Iterator[None]:
    """The operator of some sources works, told what the release says now, and has looked at everything."""
    places: Mapping[str, str] = {"PYTHONPATH": f"{sources}/operator:{sources}/services"}
    operator = released(cluster, "kubegym-operator", folder, places if sources != ROOT else None)
    operator.start()

    def calm() -> bool:
        try:
            looked = operator.metric("kubegym_reconcile_total", result="ok")
            return looked >= 2 * ENVIRONMENTS + JOBS and operator.health()["queueDepth"] == 0
        except OSError:  # it has a lot to do, and so has this machine
            return False

    try:
        until(calm, "the operator has looked at everything", seconds=SECONDS)
        yield
    finally:
        operator.terminate()


def test_no_pod_is_restarted(installer: Helm, chart_cluster: Cluster, tmp_path: Path, before: Path) -> None:
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    chart_cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM, "labels": restricted}})
    flags = (f"--namespace={NAMESPACE}", "--wait", "--timeout=600s")
    installer.run("install", RELEASE, before / "charts" / "kubegym", *flags, values={"operator": PATIENT})
    with pod_answers() as address:
        chart_cluster.apply([environment(number, address) for number in range(ENVIRONMENTS)])
        chart_cluster.apply([job(number, address) for number in range(JOBS)])
        with operating(chart_cluster, tmp_path, before):
            chart_cluster.pods.wait(TEAM, "app.kubernetes.io/component=worker", count=JOBS, seconds=SECONDS)
            chart_cluster.pods.wait(TEAM, count=PARTS, seconds=SECONDS)
        running, changed = pods(chart_cluster), generations(chart_cluster)

        others = {"images": {"tag": "next", "registry": "registry.example.org"}, "operator": PATIENT}
        installer.run("upgrade", RELEASE, CHART, *flags, values=others)
        with operating(chart_cluster, tmp_path, ROOT):
            assert (pods(chart_cluster), generations(chart_cluster)) == (running, changed)

        installer.run("rollback", RELEASE, "1", *flags)
        with operating(chart_cluster, tmp_path, before):
            assert (pods(chart_cluster), generations(chart_cluster)) == (running, changed)

        installer.run("uninstall", RELEASE, *flags)
        assert pods(chart_cluster) == running
    chart_cluster.api.delete("v1", "Namespace", TEAM)
