"""What a test does with a cluster, whether it was started for the tests or is somebody's."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from testbed.build import binary
from testbed.k8s.api import Api, Object
from testbed.k8s.control_plane import ControlPlane
from testbed.k8s.pods import Pods
from testbed.k8s.process import START_SECONDS, until

_KUBECTL_SECONDS = 2 * START_SECONDS  # a bound against hanging, longer than it is told to wait
_numbers = itertools.count(1)


class Cluster:
    """A cluster.

    Attributes:
        kubeconfig: of an administrator.
        api: requests as that administrator.
    """

    def __init__(self, kubeconfig: Path, scratch: Path, plane: ControlPlane | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.api = Api(kubeconfig)
        self._plane = plane
        self._scratch = scratch
        self._kubectl = binary("kubectl")

    @property
    def plane(self) -> ControlPlane:
        """The programs of the cluster, where they are the test session's own."""
        if self._plane is None:
            raise NotOurs("this needs a control plane of the tests' own, with fake nodes; KUBECONFIG names another")
        return self._plane

    @property
    def pods(self) -> Pods:
        """Tells the fake pods of our own control plane what happens to them."""
        return Pods(self.plane.api)

    def kubectl(
        self, *arguments: str, namespace: str | None = None, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """What kubectl prints.

        Args:
            arguments: of kubectl.
            namespace: instead of the kubeconfig's.
            stdin: what it reads from ``-f -``.
            kubeconfig: of somebody else than the administrator.

        Raises:
            KubectlFailed: it did not exit with 0.
        """
        command = [str(self._kubectl), f"--kubeconfig={kubeconfig or self.kubeconfig}"]
        command += [f"--cache-dir={self._scratch}/kubectl-cache"]
        command += [f"--namespace={namespace}"] if namespace else []
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._scratch)},
            check=False,
        )
        if done.returncode != 0:
            raise KubectlFailed(done.returncode, done.stderr)
        return done.stdout

    def apply(self, manifests: str | Object | list[Object], namespace: str | None = None) -> str:
        """Server-side apply of YAML, or of objects, as ``kubectl apply`` does it."""
        if not isinstance(manifests, str):
            manifests = yaml.safe_dump_all([manifests] if isinstance(manifests, dict) else manifests)
        return self.kubectl("apply", "--server-side", "-f", "-", namespace=namespace, stdin=manifests)

    def wait(self, resource: str, condition: str, namespace: str, seconds: float = START_SECONDS) -> None:
        """``kubectl wait --for=condition=... <resource>``, where the object is there."""
        self.kubectl("wait", f"--for=condition={condition}", resource, f"--timeout={seconds:.0f}s", namespace=namespace)

    @contextmanager
    def namespace(self, prefix: str = "test", labels: dict[str, str] | None = None) -> Iterator[str]:
        """A namespace of its own, ready for pods; deleted afterwards, without waiting for that."""
        name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        try:
            until(
                lambda: self.api.get("v1", "ServiceAccount", "default", name) is not None,
                f"namespace {name} has its service account",
            )
            yield name
        finally:
            self.api.delete("v1", "Namespace", name)

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig of a service account, for what may do no more than it may (an hour)."""
        token = self.kubectl("create", "token", service_account, "--duration=1h", namespace=namespace).strip()
        config: dict[str, Any] = yaml.safe_load(self.kubectl("config", "view", "--raw", "--minify"))
        config["users"][0]["user"] = {"token": token}
        config["contexts"][0]["context"]["namespace"] = namespace
        path = self._scratch / f"{namespace}-{service_account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


class KubectlFailed(Exception):
    """kubectl did not exit with 0.

    Attributes:
        code: its exit code.
        stderr: what it said.
    """

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(f"kubectl ended with {code}: {stderr.strip()}")
        self.code = code
        self.stderr = stderr


class NotOurs(Exception):
    """A test asks for programs or nodes of a cluster that was given."""
