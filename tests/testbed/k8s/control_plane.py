"""A control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and KWOK's fake nodes.

All it has lies in one temporary folder. It starts in about 4 s and takes 0.6 GB. Pods are scheduled and get a status,
but nothing runs in them, and nobody serves Services.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from testbed.build import binary
from testbed.k8s.api import Api
from testbed.k8s.controllers import Controller, start_controller
from testbed.k8s.kwok import kwok_command, node
from testbed.k8s.pki import Authority, certificate_user, kubeconfig, signing_key
from testbed.k8s.process import Ended, Program, free_ports, until

_SERVICE_ADDRESSES = "10.96.0.0/16"
_API_ADDRESS = "10.96.0.1"  # the first of them: the Service `kubernetes`
_STARTS = 5  # a port that was free may be taken by another process before its program has it
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
    ],
}


class ControlPlane:
    """A running control plane.

    Attributes:
        folder: everything it has: keys, data, logs.
        kubeconfig: of its administrator.
        programs: by name, in the order in which they were started.
        authority: signs what it trusts.
        api: requests as the administrator.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = environment
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        self.programs: dict[str, Program] = {}
        self.authority = Authority("testbed")
        self._front_proxy = Authority("testbed-front-proxy")
        self._service_accounts = signing_key()

    def start(self) -> None:
        """Start everything, and wait until pods can be created and scheduled.

        Raises:
            testbed.build.CannotBuild: a program is not there and cannot be built.
            testbed.k8s.process.Ended: a program does not start.
        """
        for attempt in range(_STARTS):
            try:
                self._start()
                return
            except Ended:
                self.stop()
                if attempt == _STARTS - 1:
                    raise

    def _start(self) -> None:
        api, etcd, peer, controllers, scheduler = free_ports(5)
        server = f"https://127.0.0.1:{api}"
        flags = _Flags(self.folder / "pki")
        flags.folder.mkdir(exist_ok=True)
        self._write_keys(flags.folder, server)
        self._run("etcd", flags.etcd(self.folder / f"etcd-{etcd}", etcd, peer))
        self._run("kube-apiserver", flags.api_server(api, etcd, self._audit()))
        self.api = Api(self.kubeconfig)
        until(self.api.answers, "the API server answers", programs=list(self.programs.values()))
        self._run("kube-controller-manager", flags.controller_manager(controllers))
        self._run("kube-scheduler", flags.scheduler(scheduler))
        self._run("kwok", kwok_command(self.kubeconfig))
        until(
            lambda: self.api.get("v1", "ServiceAccount", "default", "default") is not None,
            "the controllers run",
            programs=list(self.programs.values()),
        )

    def stop(self) -> None:
        """End everything, the latest first."""
        for program in reversed(self.programs.values()):
            program.kill()
        self.programs.clear()

    def start_controllers(self, *controllers: Controller) -> None:
        """Controllers that do not run yet, in this order. They stay: their webhooks see every pod from now on."""
        for controller in controllers:
            if controller.name not in self.programs:
                folder = self.folder / controller.name
                program = start_controller(controller, folder, self.kubeconfig, self.authority, self.api)
                self.programs[controller.name] = program

    def add_nodes(self, prefix: str, count: int, **options: Any) -> list[str]:
        """Fake nodes ``<prefix>-<n>``, Ready on return; their names. Options: ``testbed.k8s.kwok.node``."""
        names = [f"{prefix}-{index}" for index in range(count)]
        for name in names:
            self.api.create(node(name, **options))
        until(
            lambda: set(names) <= self._ready_nodes(), f"nodes {prefix}-* are Ready", programs=[self.programs["kwok"]]
        )
        return names

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """While the block runs, programs are dead: ``without("kube-apiserver")``. Afterwards they are ready again."""
        for name in names:
            self.programs[name].kill()
        try:
            yield
        finally:
            for name in names:
                self.programs[name].start()
            until(self.api.answers, "the API server is back", programs=[self.programs[name] for name in names])

    @contextmanager
    def hanging(self, *names: str) -> Iterator[None]:
        """While the block runs, programs do not answer, and keep their connections open."""
        for name in names:
            self.programs[name].pause()
        try:
            yield
        finally:
            for name in names:
                self.programs[name].resume()

    def writes(self, agent: str = "") -> list[dict[str, Any]]:
        """Write requests so far, as audit events, in order, without those of the control plane itself.

        ``agent`` is the beginning of the client's User-Agent. Useful fields: ``verb``, ``requestURI``, ``userAgent``,
        ``user``, ``objectRef``, ``responseStatus.code``, ``stageTimestamp``.
        """
        text = self.audit_log.read_text() if self.audit_log.exists() else ""
        lines = text.rpartition("\n")[0].splitlines()  # the last one may be half written
        events: list[dict[str, Any]] = [json.loads(line) for line in lines if agent in line]
        return [event for event in events if event.get("userAgent", "").startswith(agent)]

    def _ready_nodes(self) -> set[str]:
        return {
            found["metadata"]["name"]
            for found in self.api.list("v1", "Node")
            for condition in found["status"].get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        }

    def _run(self, name: str, flags: Sequence[str]) -> None:
        program = Program(name, [binary(name), *flags], self.folder, self._environment)
        self.programs[name] = program
        program.start()

    def _write_keys(self, folder: Path, server: str) -> None:
        private, public = self._service_accounts
        (folder / "service-accounts.key").write_bytes(private)
        (folder / "service-accounts.pub").write_bytes(public)
        names = ["127.0.0.1", "localhost", _API_ADDRESS, "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        self.authority.pair.write(folder, "ca")
        self.authority.server("kube-apiserver", names).write(folder, "server")
        self._front_proxy.pair.write(folder, "front-proxy-ca")
        self._front_proxy.client("front-proxy-client").write(folder, "front-proxy")
        for path, user in [
            (self.kubeconfig, self.authority.client("testbed-admin", "system:masters")),
            (folder / "controller-manager.kubeconfig", self.authority.client("system:kube-controller-manager")),
            (folder / "scheduler.kubeconfig", self.authority.client("system:kube-scheduler")),
        ]:
            path.write_text(kubeconfig(server, self.authority.pair.certificate, certificate_user(user)))
            path.chmod(0o600)

    def _audit(self) -> list[str]:
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}", "--audit-log-mode=blocking"]


class _Flags:
    """The command lines, given where the keys lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def etcd(self, data: Path, port: int, peer: int) -> list[str]:
        url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        return [
            f"--data-dir={data}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",
        ]

    def api_server(self, port: int, etcd: int, more: Sequence[str]) -> list[str]:
        keys = self.folder
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--request-timeout=300s",  # a bound against hanging, on a machine under load
            # There is no address of a node: one for documentation, and nobody keeps the Service's endpoints.
            "--advertise-address=192.0.2.2",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={_SERVICE_ADDRESSES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={keys}/ca.crt",
            f"--tls-cert-file={keys}/server.crt",
            f"--tls-private-key-file={keys}/server.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={keys}/service-accounts.pub",
            f"--service-account-signing-key-file={keys}/service-accounts.key",
            f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys}/front-proxy.crt",
            f"--proxy-client-key-file={keys}/front-proxy.key",
            *more,
        ]

    def controller_manager(self, port: int) -> list[str]:
        keys = self.folder
        return [
            *self._alone(f"{keys}/controller-manager.kubeconfig", port),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={keys}/service-accounts.key",
            f"--root-ca-file={keys}/ca.crt",
            f"--cluster-signing-cert-file={keys}/ca.crt",
            f"--cluster-signing-key-file={keys}/ca.key",
            f"--service-cluster-ip-range={_SERVICE_ADDRESSES}",
            "--horizontal-pod-autoscaler-sync-period=2s",
        ]

    def scheduler(self, port: int) -> list[str]:
        return self._alone(f"{self.folder}/scheduler.kubeconfig", port)

    def _alone(self, kubeconfig: str, port: int) -> list[str]:
        """No election, and not throttled by its own client."""
        return [
            *(f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")),
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--leader-elect=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        ]


@contextmanager
def control_plane(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Iterator[ControlPlane]:
    """A control plane with two fake nodes without GPUs and two with eight; gone when the block ends.

    Args:
        folder: where its files lie; by default a temporary one that goes with it.
        environment: of its programs, beside PATH and HOME.

    Raises:
        testbed.build.CannotBuild: a program is not there and cannot be built.
    """
    temporary = tempfile.TemporaryDirectory(prefix="kubegym-k8s-", ignore_cleanup_errors=True)
    with temporary if folder is None else nullcontext(folder) as place:
        plane = ControlPlane(Path(place), environment)
        try:
            plane.start()
            plane.add_nodes("cpu", 2, gpus=0)
            plane.add_nodes("gpu", 2, gpus=8)
            yield plane
        finally:
            plane.stop()
