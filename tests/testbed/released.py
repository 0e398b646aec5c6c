"""The operator as a release of the chart would run it: its environment variables, and the rights of its account.

Nothing runs in the pods of a control plane with fake nodes, so that the operator is a process of this machine.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.helm import NAMESPACE
from testbed.k8s.cluster import Cluster
from testbed.k8s.process import Program, free_ports, until


class Released:
    """A running operator.

    Args:
        program: its process.
        url: where it answers.
    """

    def __init__(self, program: Program, url: str) -> None:
        self.program = program
        self._url = url

    def read(self, path: str) -> str:
        """A page of it, such as ``/metrics``. Raises OSError where it does not answer with 200."""
        with urllib.request.urlopen(self._url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def answers(self, path: str) -> bool:
        """Whether a page is there."""
        try:
            self.read(path)
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.program.log.read_text(errors="replace")


@contextmanager
def released(cluster: Cluster, deployment: str, folder: Path) -> Iterator[Released]:
    """Start what a Deployment of the release's namespace describes, and wait until it is ready and leads."""
    found = cluster.api.get("apps/v1", "Deployment", deployment, NAMESPACE)
    assert found is not None, f"there is no Deployment {deployment}"
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    fields = {"metadata.name": "operator-0", "metadata.namespace": NAMESPACE}
    told = {
        one["name"]: one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container["env"]
    }
    (port,) = free_ports(1)
    told["KUBEGYM_OPERATOR_LISTEN"] = f"127.0.0.1:{port}"
    told["KUBEGYM_OPERATOR_KUBECONFIG"] = str(cluster.kubeconfig_of(NAMESPACE, pod["serviceAccountName"]))
    command = ["env", *(f"{name}={value}" for name, value in told.items()), sys.executable, "-m", "kubegym_operator"]
    program = Program("operator", command, folder)
    program.start()
    try:
        running = Released(program, f"http://127.0.0.1:{port}")
        until(lambda: running.answers("/readyz"), "the operator is ready", programs=[program])
        until(lambda: "kubegym_leader 1.0" in running.read("/metrics"), "the operator leads", programs=[program])
        yield running
    finally:
        program.terminate()
