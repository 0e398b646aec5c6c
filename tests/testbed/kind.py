"""A kind cluster with KubeGym in it: ``PYTHONPATH=tests python -m testbed.kind up`` or ``down`` (``make cluster``).

It has what a platform team's cluster has (NetworkPolicies that hold, metrics, an S3 store), the images of this
checkout, the chart installed, and a namespace that is ready for the environments' manifests: with the bucket
``kubegym`` and the Secret ``kubegym-output``. The last line that ``up`` prints is the path of the kubeconfig, whose
context has that namespace. ``up`` on a running cluster brings it to the state of the checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import kind_machine, kind_services
from testbed.build import CannotBuild, binary, cache, exclusively, say
from testbed.images import ROLES, ROOT, base_image, project_images, service_image, vllm_image
from testbed.images_engine import Engine, engine
from testbed.k8s.cluster import Cluster, KubectlFailed
from testbed.kind_node import FILES, node_image

NAME = "kubegym"
NAMESPACE = "rollouts"
SYSTEM = "kubegym-system"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
_OPERATOR = "app.kubernetes.io/name=kubegym,app.kubernetes.io/component=operator"
_READY_SECONDS = 300.0  # on a loaded machine; some 20 s otherwise


class KindCluster(Cluster):
    """A running cluster made by kind.

    Attributes:
        name: that kind knows it by.
        images: references of the project's images on its node, by role.
    """

    def __init__(self, name: str, kubeconfig: Path, images: dict[str, str]) -> None:
        super().__init__(kubeconfig, kubeconfig.parent)
        self.name = name
        self.images = images


@dataclass(frozen=True)
class Prepared:
    """What a cluster is made of.

    Attributes:
        node: reference of the node's image; empty for kind's own default.
        base: reference of the image below the project's.
        project: references of the project's images, by role.
        services: references of the images of what else runs in it.
    """

    node: str
    base: str
    project: dict[str, str]
    services: dict[str, str]


def prepare() -> Prepared:
    """Build whatever a cluster is made of and is not there yet: minutes, once.

    Raises:
        CannotBuild: the machine cannot run kind, or something could not be built.
    """
    used = engine()
    for program in ("kind", "kubectl", "helm"):
        binary(program)
    node = node_image(used)
    services = {service: service_image(service) for service in ("s3", "metrics-server")}
    if _is_ours(node):
        services["network-policies"] = service_image("network-policies")
    return Prepared(node, base_image(used), project_images(), services)


def up(name: str = NAME, *, install: bool = True) -> KindCluster:
    """The cluster ``name``, made if it is not there, with this checkout's images, and its chart where ``install``.

    Raises:
        CannotBuild: as ``prepare``.
    """
    used, made = engine(), prepare()
    kubeconfig = _folder(name) / "kubeconfig"
    with exclusively(cache() / "kind.lock"):
        if name not in _clusters(used):
            _create(used, name, made.node, kubeconfig)
        cluster = KindCluster(name, kubeconfig, made.project)
        _load(used, name, [*made.project.values(), *made.services.values(), made.base])
        _add_services(cluster, made.services, made.base)
        if install:
            install_chart(cluster)
    return cluster


def given(kubeconfig: Path) -> KindCluster:
    """A cluster that is there, with the chart installed; its images are the operator's and those beside it."""
    cluster = KindCluster("", kubeconfig, {})
    path = "{.items[0].spec.template.spec.containers[0].image}"
    operator = cluster.kubectl("get", "deployments", f"-o=jsonpath={path}", "-l", _OPERATOR, namespace=SYSTEM)
    cluster.images.update({role: operator.replace("kubegym-operator", f"kubegym-{role}") for role in ROLES})
    return cluster


def down(name: str = NAME) -> None:
    """Remove the cluster ``name`` and everything that it has changed on this machine; nothing where there is none."""
    used = engine()
    with exclusively(cache() / "kind.lock"):
        used.run(binary("kind"), "delete", "cluster", "--name", name)
        shutil.rmtree(_folder(name), ignore_errors=True)
        if used.name == "podman" and not _clusters(used):
            kind_machine.put_back(_machine_state(), used)


def load(cluster: KindCluster, references: list[str]) -> None:
    """Put further images on the node."""
    _load(engine(), cluster.name, references)


def copy(cluster: KindCluster, folder: Path, place: str) -> None:
    """Copy a folder onto the node, for every pod there to read."""
    used, node = engine(), f"{cluster.name}-control-plane"
    used.run(used.name, "cp", folder, f"{node}:{place}")
    used.run(used.name, "exec", node, "chmod", "-R", "a+rX", place)


@contextmanager
def claimed(cluster: KindCluster, name: str, folder: Path) -> Iterator[None]:
    """A claim of that name over a copy of the folder on the node, while the block runs."""
    copy(cluster, folder, f"/var/lib/{name}")
    size = {"storage": "1Gi"}
    spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {**spec, "capacity": size, "hostPath": {"path": f"/var/lib/{name}"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {**spec, "resources": {"requests": size}, "volumeName": name},
    }
    cluster.apply(volume)
    cluster.apply(claim, namespace=NAMESPACE)
    yield
    # Not awaited: pods that take their time to end hold the claim, and it the volume.
    cluster.kubectl("delete", "persistentvolumeclaim", name, "--wait=false", namespace=NAMESPACE)
    cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


def install_chart(cluster: KindCluster) -> None:
    """Install or upgrade ``charts/kubegym`` with the images of this checkout."""
    tag = cluster.images["operator"].rsplit(":", 1)[1]
    values = {"images.registry": "localhost", "images.tag": tag, "images.pullPolicy": "IfNotPresent"}
    settings = [word for name, value in values.items() for word in ("--set-string", f"{name}={value}")]
    settings += ["--set", "network.podCidrs={10.244.0.0/16}", "--set", "network.serviceCidrs={10.96.0.0/16}"]
    settings += ["--set-string", "operator.resources.requests.cpu=50m"]
    say(f"installing the chart in {SYSTEM}")
    command: list[str | Path] = [binary("helm"), "upgrade", "--install", "kubegym", ROOT / "charts" / "kubegym"]
    command += ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", f"{_READY_SECONDS:.0f}s"]
    engine().run(*command, "--kubeconfig", cluster.kubeconfig, *settings, seconds=_READY_SECONDS + 60)


def _create(used: Engine, name: str, node: str, kubeconfig: Path) -> None:
    if used.name == "podman":
        kind_machine.remember(_machine_state())
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        binary("kind"),
        "create",
        "cluster",
        "--name",
        name,
        "--kubeconfig",
        kubeconfig,
        "--wait",
        "120s",
    ]
    command += ["--image", node] if node else []
    command += ["--config", FILES.parent / "cluster.yaml"] if _is_ours(node) else []
    say(f"creating the kind cluster {name}")
    used.run(*command)


def _load(used: Engine, name: str, references: list[str]) -> None:
    """Put images on the node that it does not have."""
    listed = used.run(used.name, "exec", f"{name}-control-plane", "ctr", "-n", "k8s.io", "images", "list", "-q")
    # Docker's short names are written out there, with where they come from.
    there = tuple(f"/{name}" for name in listed.split())
    missing = [reference for reference in references if not any(name.endswith(f"/{reference}") for name in there)]
    if not missing:
        return
    say(f"loading {len(missing)} images")
    with tempfile.TemporaryDirectory(prefix="kubegym-load-", dir=cache()) as above:
        archive = Path(above, "images.tar")
        used.save(missing, archive)
        used.run(binary("kind"), "load", "image-archive", archive, "--name", name)


def _add_services(cluster: KindCluster, services: dict[str, str], base: str) -> None:
    """Apply what the cluster gets besides KubeGym, and wait until it works."""
    say("adding NetworkPolicies, metrics and S3")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    if "network-policies" in services:
        cluster.apply(kind_services.network_policies(services["network-policies"]))
    cluster.apply(kind_services.metrics_server(cluster, services["metrics-server"]))
    cluster.apply(kind_services.s3_server(NAMESPACE, services["s3"], base), namespace=NAMESPACE)
    cluster.kubectl("config", "set-context", "--current", f"--namespace={NAMESPACE}")
    cluster.kubectl("scale", "deployment/coredns", "--replicas=1", namespace="kube-system")  # there is one node
    cluster.kubectl("set", "resources", "deployment/coredns", "--requests=cpu=20m", namespace="kube-system")
    for resource, namespace in (
        ("deployment/coredns", "kube-system"),
        ("deployment/metrics-server", "kube-system"),
        ("deployment/s3", NAMESPACE),
        *([("daemonset/kube-network-policies", "kube-system")] if "network-policies" in services else []),
    ):
        cluster.kubectl("rollout", "status", resource, f"--timeout={_READY_SECONDS:.0f}s", namespace=namespace)


def _clusters(used: Engine) -> list[str]:
    return used.run(binary("kind"), "get", "clusters").split()


def _is_ours(node: str) -> bool:
    return node.startswith("localhost/")


def _folder(name: str) -> Path:
    return cache() / "kind" / name


def _machine_state() -> Path:
    return cache() / "kind" / "machine.json"


def _prepare_vllm() -> None:
    """The tests with the real vLLM are the only ones that need it, and say themselves why they are skipped."""
    with contextlib.suppress(CannotBuild):
        vllm_image()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.kind", description="A kind cluster with KubeGym in it.")
    parser.add_argument("verb", choices=["up", "down", "prepare"], help="prepare: build only")
    parser.add_argument("--name", default=NAME)
    chosen = parser.parse_args()
    try:
        if chosen.verb == "down":
            down(chosen.name)
        elif chosen.verb == "prepare":
            if not os.environ.get("KUBECONFIG"):  # tests use that cluster
                prepare()
                _prepare_vllm()
        else:
            print(up(chosen.name).kubeconfig, flush=True)
    except (CannotBuild, KubectlFailed) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
