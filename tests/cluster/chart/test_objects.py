"""A real API server takes everything that the chart renders, and the rights are those that the operator needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kubegym_operator.build.labels import OWNER_NAME
from testbed.helm import CHART, NAMESPACE, Helm, Object
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import until
from testbed.rights import await_rights, may

ROOT = CHART.parents[1]
CASES = [path for path in sorted((Path(__file__).parent / "cases").glob("*.yaml")) if "refuses" not in path.stem]
MONITORING = "monitoring.coreos.com/v1"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_api_server_takes_every_object(helm: Helm, shared_cluster: Cluster, path: Path) -> None:
    case: Object = yaml.safe_load(path.read_text())
    rendered = helm.render(case.get("values"), served=[MONITORING])
    objects = [obj for found in rendered.values() for obj in found]
    text = yaml.safe_dump_all(objects)
    said = shared_cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text
    )
    assert said.count("(server dry run)") == len(objects)


@pytest.mark.parametrize("command", ["get", "apply environments/arithmetic", "describe x", "logs x"])
def test_the_command_line_says_that_it_is_not_installed(shared_cluster: Cluster, command: str) -> None:
    program = Path(sys.executable).with_name("kubegym")
    environment = {**os.environ, "KUBECONFIG": str(shared_cluster.kubeconfig)}
    done = subprocess.run([program, *command.split()], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is KubeGym installed in it? (helm install kubegym charts/kubegym) [NotInstalled]" in done.stderr


def test_definitions_are_rendered_as_they_are(helm: Helm) -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in helm.render()["templates/crds.yaml"]}
    files = [yaml.safe_load(path.read_text()) for path in (CHART.parents[1] / "crds").glob("*.yaml")]
    assert files
    for crd in files:
        found = rendered[crd["metadata"]["name"]]
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == crd


def rendered_rights(helm: Helm, cluster: Cluster, values: Object) -> str:
    """Apply the rights of a release, no more; the operator's user name."""
    rendered = helm.render(values)
    made = [*rendered["templates/serviceaccount.yaml"], *rendered["templates/rbac.yaml"]]
    cluster.apply(made)
    account = rendered["templates/serviceaccount.yaml"][0]["metadata"]["name"]
    return await_rights(cluster, account, f"{values['fullnameOverride']}-operator", values.get("watchNamespaces", ()))


CHILDREN = (
    "core/services",
    "core/configmaps",
    "core/serviceaccounts",
    "apps/deployments",
    "batch/jobs",
    "networking.k8s.io/networkpolicies",
    "policy/poddisruptionbudgets",
    "leaderworkerset.x-k8s.io/leaderworkersets",
)
OURS = ("kubegym.dev/gymenvironments", "kubegym.dev/rolloutjobs", "kubegym.dev/modelservers")
NEEDED = {
    *((verb, child) for child in CHILDREN for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *((verb, kind) for kind in (*OURS, "core/pods") for verb in ("get", "list", "watch")),
    *(("patch", f"{kind}/status") for kind in OURS),
    *((verb, "kubegym.dev/modelservers") for verb in ("create", "patch", "delete")),
    ("delete", "kubegym.dev/rolloutjobs"),
    ("delete", "core/pods"),
    *(
        ("patch", f"{kind}/scale")
        for kind in ("apps/deployments", "leaderworkerset.x-k8s.io/leaderworkersets", "kubegym.dev/modelservers")
    ),
    ("create", "core/secrets"),
    *((verb, "events.k8s.io/events") for verb in ("list", "create", "patch")),
    ("get", "kueue.x-k8s.io/localqueues"),
}
REFUSED = {
    *((verb, "core/secrets") for verb in ("get", "list", "watch", "update", "patch", "delete", "deletecollection")),
    ("get", "core/pods/log"),
    ("create", "core/pods/exec"),
    ("create", "core/pods/portforward"),
    ("create", "core/pods"),
    ("create", "core/serviceaccounts/token"),
    ("create", "rbac.authorization.k8s.io/roles"),
    ("create", "rbac.authorization.k8s.io/rolebindings"),
    ("list", "core/nodes"),
    *((verb, "kubegym.dev/gymenvironments") for verb in ("create", "update", "patch", "delete")),
    *((verb, "kubegym.dev/rolloutjobs") for verb in ("create", "update", "patch")),
    ("update", "apiextensions.k8s.io/customresourcedefinitions"),
}


def test_rights_in_the_whole_cluster(helm: Helm, shared_cluster: Cluster) -> None:
    user = rendered_rights(helm, shared_cluster, {"fullnameOverride": "wide"})
    wanted = {*NEEDED, ("list", "core/namespaces")}
    assert {right for right in wanted if not may(shared_cluster, user, *right, namespace=None)} == set()
    assert {right for right in REFUSED if may(shared_cluster, user, *right, namespace="team-a")} == set()


def test_rights_in_two_namespaces(helm: Helm, shared_cluster: Cluster) -> None:
    user = rendered_rights(
        helm, shared_cluster, {"fullnameOverride": "narrow", "watchNamespaces": ["team-a", "team-b"]}
    )
    for namespace in ("team-a", "team-b"):
        assert {right for right in NEEDED if not may(shared_cluster, user, *right, namespace=namespace)} == set()
        assert {right for right in REFUSED if may(shared_cluster, user, *right, namespace=namespace)} == set()
        assert may(shared_cluster, user, "get", "core/namespaces", namespace, namespace)
    for elsewhere in (NAMESPACE, "default", None):
        assert {right for right in NEEDED if may(shared_cluster, user, *right, namespace=elsewhere)} == set()


def test_whatever_is_built_may_be_created(helm: Helm, shared_cluster: Cluster) -> None:
    user = rendered_rights(helm, shared_cluster, {"fullnameOverride": "builder"})
    built: set[str] = set()
    for path in (ROOT / "tests" / "golden" / "build").rglob("expected/*.yaml"):
        for obj in yaml.safe_load_all(path.read_text()):
            group = obj["apiVersion"].rpartition("/")[0] or "core"
            built.add(f"{group}/{obj['kind'].lower().removesuffix('y')}{'ies' if obj['kind'].endswith('y') else 's'}")
    assert built >= {"apps/deployments", "batch/jobs", "networking.k8s.io/networkpolicies"}
    assert {plural for plural in built if not may(shared_cluster, user, "create", plural, "team-a")} == set()


def test_pods_are_scraped_by_what_they_are_labelled_with(helm: Helm) -> None:
    rendered = helm.render({"monitoring": {"podMonitor": {"enabled": True}}})
    (monitor,) = rendered["templates/podmonitor.yaml"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    sources = {label for rule in endpoint["relabelings"] for label in rule["sourceLabels"]}
    meta = {
        "__meta_kubernetes_pod_label_" + label.translate(str.maketrans("./-", "___")) for label in OWNER_NAME.values()
    }
    assert meta <= sources
    pods = [
        obj["spec"]["template"]
        for path in (ROOT / "tests" / "golden" / "build").rglob("expected/*.yaml")
        for obj in yaml.safe_load_all(path.read_text())
        if obj["kind"] in ("Deployment", "Job")
    ]
    chosen = monitor["spec"]["selector"]
    (among,) = chosen["matchExpressions"]
    scraped = [
        pod
        for pod in pods
        if chosen["matchLabels"].items() <= pod["metadata"]["labels"].items()
        and pod["metadata"]["labels"][among["key"]] in among["values"]
    ]
    assert len(scraped) > 10
    for pod in scraped:
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
        ports = [port["name"] for container in containers for port in container.get("ports", ())]
        assert ports == [endpoint["port"]], pod["metadata"]["labels"]


def test_the_lease_is_its_own_only(helm: Helm, shared_cluster: Cluster) -> None:
    user = rendered_rights(helm, shared_cluster, {"fullnameOverride": "leased", "watchNamespaces": ["team-a"]})
    leases = "coordination.k8s.io/leases"
    assert may(shared_cluster, user, "create", leases, NAMESPACE)
    for verb in ("get", "patch"):
        assert may(shared_cluster, user, verb, leases, NAMESPACE, "leased-operator")
        assert not may(shared_cluster, user, verb, leases, NAMESPACE, "another")
        assert not may(shared_cluster, user, verb, leases, "team-a", "leased-operator")


def test_who_views_or_edits_a_namespace_does_so_with_runs(helm: Helm, shared_cluster: Cluster) -> None:
    shared_cluster.apply(helm.render({"fullnameOverride": "roles"})["templates/roles.yaml"])
    for role, user in (("view", "viewer"), ("edit", "editor")):
        shared_cluster.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={user}", "-n", "team-a")
    jobs = "kubegym.dev/rolloutjobs"

    def rights(user: str) -> set[str]:
        verbs = ("get", "list", "watch", "create", "update", "patch", "delete")
        return {verb for verb in verbs if may(shared_cluster, user, verb, jobs, "team-a")}

    def aggregated() -> bool:
        return rights("viewer") >= {"get"} and rights("editor") >= {"get", "delete"}

    until(aggregated, "the cluster's roles have ours")
    assert rights("viewer") == {"get", "list", "watch"}
    assert rights("editor") == {"get", "list", "watch", "create", "update", "patch", "delete"}
    assert not may(shared_cluster, "viewer", "patch", f"{jobs}/scale", "team-a")
    assert may(shared_cluster, "editor", "patch", f"{jobs}/scale", "team-a")
    assert not may(shared_cluster, "editor", "patch", f"{jobs}/status", "team-a")
