"""The real Kueue, as a program beside the API server instead of a pod."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from testbed.build import binary, cache, module_folder
from testbed.components import KUEUE
from testbed.k8s.api import APPLY, Api, Refused
from testbed.k8s.pki import Authority
from testbed.k8s.process import Program, free_ports, until

_API = "kueue.x-k8s.io/v1beta2"
_NAMESPACE = "kueue-system"
# Of what Kueue ships; the rest puts it into a pod, and says who may do what.
_APPLIED = {
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "Namespace",
    "ValidatingWebhookConfiguration",
}


def start_kueue(folder: Path, kubeconfig: Path, authority: Authority, api: Api) -> Program:
    """Install Kueue and start it; it admits on return.

    Args:
        folder: where its files lie.
        kubeconfig: of an administrator.
        authority: signs its webhooks' certificate.
        api: the API server.

    Raises:
        testbed.build.CannotBuild: it is not there and cannot be built.
    """
    program = binary("kueue")
    folder.mkdir()
    health, webhooks = free_ports(2)
    authority.server("kueue", ["127.0.0.1"]).write(folder, "tls")
    manifests = _manifests()
    configuration = _configuration(manifests, folder, health, webhooks)
    (folder / "configuration.json").write_text(json.dumps(configuration))
    trusted = base64.b64encode(authority.pair.certificate).decode()
    for manifest in manifests:
        if manifest["kind"] in _APPLIED:
            _lead_to_host(manifest, webhooks, trusted)
            path = api.path(manifest["apiVersion"], manifest["kind"], None, manifest["metadata"]["name"])
            api.request("PATCH", path, manifest, content_type=APPLY, query={"fieldManager": "testbed", "force": "true"})
    plurals = {found["spec"]["names"]["plural"] for found in manifests if found["kind"] == "CustomResourceDefinition"}
    until(lambda: _served(api, plurals), "Kueue's kinds are served")
    running = Program(
        "kueue",
        [
            program,
            f"--config={folder}/configuration.json",
            f"--kubeconfig={kubeconfig}",
            "--feature-gates=VisibilityOnDemand=false",
        ],
        folder,
    )
    running.start()
    try:
        until(lambda: _ready(health), "Kueue is ready", programs=[running])
    except BaseException:
        running.kill()
        raise
    return running


def queue(name: str, namespace: str, **quotas: str) -> list[dict[str, Any]]:
    """A LocalQueue ``name`` in ``namespace``, and the ClusterQueue ``<namespace>-<name>`` and flavor that it needs.

    ``quotas`` are by resource, with underscores: ``cpu="8"``, ``nvidia_com__gpu="4"`` for ``nvidia.com/gpu``.
    """
    above = f"{namespace}-{name}"
    resources = {resource.replace("__", "/").replace("_", "."): quota for resource, quota in quotas.items()}
    group = {
        "coveredResources": list(resources),
        "flavors": [
            {
                "name": above,
                "resources": [{"name": resource, "nominalQuota": quota} for resource, quota in resources.items()],
            }
        ],
    }
    preemption = {"withinClusterQueue": "LowerPriority"}
    return [
        {"apiVersion": _API, "kind": "ResourceFlavor", "metadata": {"name": above}},
        {
            "apiVersion": _API,
            "kind": "ClusterQueue",
            "metadata": {"name": above},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group], "preemption": preemption},
        },
        {
            "apiVersion": _API,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterQueue": above},
        },
    ]


def _manifests() -> list[dict[str, Any]]:
    """What Kueue's own installation applies; rendered once, then from the cache."""
    rendered = cache() / "k8s" / f"kueue-{KUEUE}.json"
    if not rendered.exists():
        kustomization = module_folder("kueue") / "config" / "default"
        done = subprocess.run(
            [binary("kubectl"), "kustomize", kustomization], capture_output=True, timeout=120, check=True
        )
        documents = yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        partial = rendered.with_suffix(".partial")
        partial.write_text(json.dumps(list(documents)))
        partial.rename(rendered)
    manifests: list[dict[str, Any]] = json.loads(rendered.read_text())
    return manifests


def _configuration(manifests: list[dict[str, Any]], folder: Path, health: int, webhooks: int) -> dict[str, Any]:
    (shipped,) = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    configuration: dict[str, Any] = yaml.safe_load(shipped["data"]["controller_manager_config.yaml"])
    return configuration | {
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": webhooks, "certDir": str(folder)},
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"qps": 200, "burst": 400},
        "internalCertManagement": {"enable": False},
    }


def _lead_to_host(manifest: dict[str, Any], port: int, trusted: str) -> None:
    """Let the API server call webhooks on loopback instead of through a Service."""
    clients = [hook["clientConfig"] for hook in manifest.get("webhooks", [])]
    conversion = manifest.get("spec", {}).get("conversion", {}).get("webhook")
    if conversion:
        clients.append(conversion["clientConfig"])
    for client in clients:
        service = client.pop("service")
        client["url"] = f"https://127.0.0.1:{port}{service['path']}"
        client["caBundle"] = trusted


def _served(api: Api, plurals: set[str]) -> bool:
    try:
        return plurals <= {resource["name"] for resource in api.request("GET", f"/apis/{_API}")["resources"]}
    except Refused:
        return False


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
