"""The real KEDA as programs beside the API server: its operator and its metrics server, with the rights it ships.

``testbed.components`` says what its build leaves out. Its admission webhook does not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from testbed.build import binary, module_folder
from testbed.definitions import await_definitions
from testbed.k8s.cluster import Cluster
from testbed.k8s.control_plane import ControlPlane
from testbed.k8s.external_metrics import aggregated
from testbed.k8s.process import Program, answers, free_ports, until

NAMESPACE = "keda"
_ACCOUNT = "keda-operator"
_MANIFESTS = (
    "general/namespace",
    "service_account/service_account",
    "crd/bases/*",
    "rbac/role*",
    "metrics-server/role*",
)


@contextmanager
def keda(cluster: Cluster, folder: Path) -> Iterator[None]:
    """KEDA works on a cluster of the tests' own while the block runs; its definitions and rights stay.

    Args:
        cluster: where.
        folder: an empty one, for keys and logs.

    Raises:
        testbed.build.CannotBuild: a program is not there and cannot be built.
    """
    operator, adapter = binary("keda-operator"), binary("keda-adapter")
    _install(cluster)
    kubeconfig = cluster.kubeconfig_of(NAMESPACE, _ACCOUNT)
    environment = {"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": NAMESPACE, "WATCH_NAMESPACE": ""}
    environment["KEDA_CLUSTER_OBJECT_NAMESPACE"] = NAMESPACE
    environment["KEDA_HTTP_DEFAULT_TIMEOUT"] = "120000"  # milliseconds that whoever it asks may take
    served, asking = _keys(cluster.plane, folder)
    health, metrics, api = free_ports(3)
    operator_flags = [
        f"--cert-dir={served}",
        f"--health-probe-bind-address=127.0.0.1:{health}",
        f"--metrics-service-bind-address=127.0.0.1:{metrics}",
        "--metrics-bind-address=0",
    ]
    adapter_flags = [
        f"--cert-dir={asking}",
        f"--client-ca-file={served}/ca.crt",
        f"--tls-cert-file={served}/tls.crt",
        f"--tls-private-key-file={served}/tls.key",
        f"--metrics-service-address=127.0.0.1:{metrics}",
        *(f"--{use}-kubeconfig={kubeconfig}" for use in ("lister", "authentication", "authorization")),
        "--bind-address=127.0.0.1",
        f"--secure-port={api}",
        "--port=0",  # its own metrics, on a port that nobody asks
    ]
    programs = [
        Program("keda-operator", [operator, *operator_flags], folder, environment),
        Program("keda-adapter", [adapter, *adapter_flags], folder, environment),
    ]
    try:
        programs[0].start()
        until(lambda: answers(f"http://127.0.0.1:{health}/readyz"), "KEDA's operator is ready", programs=programs[:1])
        programs[1].start()
        with aggregated(cluster.plane, NAMESPACE, api, programs=programs):
            yield
    finally:
        for program in reversed(programs):
            program.kill()


def _install(cluster: Cluster) -> None:
    """What its own installation applies, but for what puts it into pods."""
    config = module_folder("keda-operator") / "config"
    files = [path for pattern in _MANIFESTS for path in sorted(config.glob(f"{pattern}.yaml"))]
    documents = [found for path in files for found in yaml.safe_load_all(path.read_text()) if found]
    cluster.apply(documents)
    for group, count in {"keda.sh": 4, "eventing.keda.sh": 2}.items():
        await_definitions(cluster, group, count)


def _keys(plane: ControlPlane, folder: Path) -> tuple[Path, Path]:
    """The folders of certificates with which its two programs serve, and with which one asks the other."""
    pairs = {
        "served": plane.authority.server("keda", ["127.0.0.1", "localhost"]),
        "asking": plane.authority.client("keda-adapter"),
    }
    for name, pair in pairs.items():
        (folder / name).mkdir(parents=True)
        pair.write(folder / name, "tls")
        (folder / name / "ca.crt").write_bytes(plane.authority.pair.certificate)
    return folder / "served", folder / "asking"
