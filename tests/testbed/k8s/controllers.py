"""The real Kueue and LeaderWorkerSet, as programs beside the API server instead of pods."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testbed.build import binary, cache, module_folder
from testbed.components import COMPONENTS
from testbed.k8s.api import APPLY, Api, Refused
from testbed.k8s.pki import Authority
from testbed.k8s.process import START_SECONDS, Program, answers, free_ports, until

# Of what a controller ships; the rest puts it into a pod, and says who may do what.
_APPLIED = {
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "Namespace",
    "ValidatingWebhookConfiguration",
}


@dataclass(frozen=True)
class Controller:
    """A controller of the field, built on controller-runtime, and configured as its own installation does it.

    Attributes:
        name: of its program.
        api: group and version of its kinds.
        flags: besides its configuration.
    """

    name: str
    api: str
    flags: tuple[str, ...] = ()


KUEUE = Controller("kueue", "kueue.x-k8s.io/v1beta2", ("--feature-gates=VisibilityOnDemand=false",))
LWS = Controller("lws", "leaderworkerset.x-k8s.io/v1")


def start_controller(controller: Controller, folder: Path, kubeconfig: Path, authority: Authority, api: Api) -> Program:
    """Install a controller and start it; it works on return.

    Args:
        controller: which.
        folder: where its files lie.
        kubeconfig: of an administrator.
        authority: signs its webhooks' certificate.
        api: the API server.

    Raises:
        testbed.build.CannotBuild: it is not there and cannot be built.
    """
    program = binary(controller.name)
    folder.mkdir()
    health, webhooks = free_ports(2)
    authority.server(controller.name, ["127.0.0.1"]).write(folder, "tls")
    manifests = _manifests(controller)
    configuration = _configuration(manifests, folder, health, webhooks)
    (folder / "configuration.json").write_text(json.dumps(configuration))
    trusted = base64.b64encode(authority.pair.certificate).decode()
    for manifest in manifests:
        if manifest["kind"] in _APPLIED:
            _lead_to_host(manifest, webhooks, trusted)
            path = api.path(manifest["apiVersion"], manifest["kind"], None, manifest["metadata"]["name"])
            query = {"fieldManager": "testbed", "force": "true"}
            api.request("PATCH", path, manifest, content_type=APPLY, query=query)
    plurals = {found["spec"]["names"]["plural"] for found in manifests if found["kind"] == "CustomResourceDefinition"}
    until(lambda: _served(controller, api, plurals), f"the kinds of {controller.name} are served")
    flags = [f"--config={folder}/configuration.json", f"--kubeconfig={kubeconfig}", *controller.flags]
    running = Program(controller.name, [program, *flags], folder)
    running.start()
    try:
        until(lambda: answers(f"http://127.0.0.1:{health}/readyz"), f"{controller.name} is ready", programs=[running])
    except BaseException:
        running.kill()
        raise
    return running


def definitions(controller: Controller) -> list[dict[str, Any]]:
    """Its CustomResourceDefinitions, for a cluster where nobody works on them; conversion needs its webhook."""
    found = [manifest for manifest in _manifests(controller) if manifest["kind"] == "CustomResourceDefinition"]
    for manifest in found:
        manifest["spec"].pop("conversion", None)
    return found


def _manifests(controller: Controller) -> list[dict[str, Any]]:
    """What its own installation applies; rendered once, then from the cache."""
    rendered = cache() / "k8s" / f"{controller.name}-{COMPONENTS[controller.name].version}.json"
    if not rendered.exists():
        kustomization = module_folder(controller.name) / "config" / "default"
        done = subprocess.run(
            [binary("kubectl"), "kustomize", kustomization], capture_output=True, timeout=START_SECONDS, check=True
        )
        documents = yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        partial = rendered.with_suffix(f".{os.getpid()}.partial")
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
    """Let the API server call webhooks on loopback instead of through a Service, and be patient with them."""
    for hook in manifest.get("webhooks", []):
        hook["timeoutSeconds"] = 30  # the most there is: a stall of the controller would fail what a test writes
    clients = [hook["clientConfig"] for hook in manifest.get("webhooks", [])]
    conversion = manifest.get("spec", {}).get("conversion", {}).get("webhook")
    if conversion:
        clients.append(conversion["clientConfig"])
    for client in clients:
        service = client.pop("service")
        client["url"] = f"https://127.0.0.1:{port}{service['path']}"
        client["caBundle"] = trusted


def _served(controller: Controller, api: Api, plurals: set[str]) -> bool:
    try:
        served = api.request("GET", f"/apis/{controller.api}")["resources"]
    except Refused:
        return False
    return plurals <= {resource["name"] for resource in served}
