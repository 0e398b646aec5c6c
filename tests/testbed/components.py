"""Which programs the test bed is made of, and the versions everything is tested with."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KUBERNETES = os.environ.get("KUBEGYM_KUBERNETES") or "1.36.3"  # another one has a cache of its own: KUBEGYM_CACHE
KIND = "0.33.0"
_CLOUDS = ("aws", "azure", "gcp")
_SECRET_STORES = ("aws_secretmanager", "azure_keyvault", "gcp_secretmanager")


@dataclass(frozen=True)
class Replacement:
    """An expression of a module's source that is replaced before the build.

    Attributes:
        file: within the module.
        old: what has to stand there.
        new: what comes in its place.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Component:
    """A program and how it is built.

    Attributes:
        name: of the binary; ``cni/bridge`` lies in a folder of its own.
        module: Go module to require; where ``source`` is set, what the program calls itself.
        version: of the module, without the ``v``.
        package: what to build, within the module; the module itself by default.
        ldflags: for the linker, besides ``-s -w``; ``{version}`` and ``{minor}`` are filled in.
        tags: build tags.
        folder: of the cache in which the binary lies.
        staging: require the published tags of the repositories that Kubernetes keeps in its own tree.
        source: folder beside this file that holds the program, instead of a module.
        left_out: patterns of files that are left out of the module's source.
        added: files beside this file that are added to the module's source, by their place in it.
        replaced: expressions of the module's source that are replaced.
    """

    name: str
    module: str
    version: str
    package: str = ""
    ldflags: str = ""
    tags: str = ""
    folder: str = "k8s/bin"
    staging: bool = False
    source: str = ""
    left_out: tuple[str, ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    replaced: tuple[Replacement, ...] = ()

    @property
    def import_path(self) -> str:
        return f"{self.module}/{self.package}" if self.package else self.module

    @property
    def changed(self) -> bool:
        """Whether the module's source is changed before the build."""
        return bool(self.left_out or self.added or self.replaced)

    def flags(self) -> list[str]:
        words = self.ldflags.format(version=self.version, minor=self.version.split(".")[1])
        ldflags = f"-s -w {words}".strip()
        return ["-mod=mod", "-trimpath", "-buildvcs=false", "-tags", self.tags, "-ldflags", ldflags]

    def key(self, go_version: str) -> str:
        """What the binary depends on; another key means another binary."""
        words = [f"{self.import_path}@v{self.version}", go_version, *self.flags()]
        digest = hashlib.sha256()
        for file in sorted(HERE.joinpath(self.source).iterdir()) if self.source else []:
            digest.update(file.read_bytes())
        for name, place in self.added:
            digest.update(place.encode() + HERE.joinpath(name).read_bytes())
        digest.update("".join([*self.left_out, repr(self.replaced)]).encode())
        if self.source or self.changed:
            words.append(digest.hexdigest())
        return "\n".join(words)


def _kubernetes(name: str) -> Component:
    version, client = "k8s.io/component-base/version", "k8s.io/client-go/pkg/version"
    return Component(
        name,
        module="k8s.io/kubernetes",
        version=KUBERNETES,
        package=f"cmd/{name}",
        ldflags=f"-X {version}.gitVersion=v{{version}} -X {version}.gitMajor=1 -X {version}.gitMinor={{minor}}"
        f" -X {version}.gitTreeState=clean -X {client}.gitVersion=v{{version}}",
        staging=True,
    )


def _containerd(name: str) -> Component:
    module = "github.com/containerd/containerd/v2"
    return Component(
        name,
        module=module,
        version="2.4.2",
        package=f"cmd/{name}",
        ldflags=f"-X {module}/version.Version=v{{version}}",
        tags="netgo osusergo static_build no_btrfs no_zfs no_devmapper",
    )


def _network_plugin(name: str) -> Component:
    return Component(
        f"cni/{Path(name).name}",
        module="github.com/containernetworking/plugins",
        version="1.9.1",
        package=f"plugins/{name}",
    )


def _keda(name: str) -> Component:
    """A program of KEDA with one scaler, that of Prometheus, and without the SDKs of clouds.

    Its controllers, its HPAs, its scaling to and from zero, its metrics server and the scaler itself are as released.
    The other scalers (70, with a client each), the secret stores and identities of clouds, and Azure's event grid are
    not compiled: whoever asks for one is refused.
    """
    return Component(
        f"keda-{name}",
        module="github.com/kedacore/keda/v2",
        version="2.21.0",
        package=f"cmd/{name}",
        ldflags="-X github.com/kedacore/keda/v2/version.Version={version}",
        left_out=(
            "pkg/scalers/[!p]*_scaler.go",
            "pkg/scalers/p[!r]*_scaler.go",
            "pkg/scalers/predictkube_scaler.go",
            *(f"pkg/scalers/{cloud}/*.go" for cloud in _CLOUDS),
            *(f"pkg/scaling/resolver/{store}_handler.go" for store in _SECRET_STORES),
            "pkg/eventemitter/azure_event_grid_topic_handler.go",
        ),
        added=(
            *((f"keda/{cloud}.go", f"pkg/scalers/{cloud}/{cloud}.go") for cloud in _CLOUDS),
            ("keda/secret_stores.go", "pkg/scaling/resolver/secret_stores.go"),
            ("keda/event_grid.go", "pkg/eventemitter/event_grid.go"),
            ("keda/external_metric.go", "pkg/scalers/external_metric.go"),
        ),
        # Between the two marks stands which scaler is made of which trigger; it becomes a comment.
        replaced=(
            Replacement(
                "pkg/scaling/scalers_builder.go",
                "// TRIGGERS-START\n",
                'if triggerType == "prometheus" {\n\t\treturn scalers.NewPrometheusScaler(config)\n\t}\n'
                '\treturn nil, fmt.Errorf("this build of KEDA has no scaler for %s", triggerType)\n/*\n',
            ),
            Replacement("pkg/scaling/scalers_builder.go", "// TRIGGERS-END\n", "*/\n"),
        ),
    )


_ALL = [
    Component(
        "versitygw",
        module="github.com/versity/versitygw",
        version="1.8.0",
        package="cmd/versitygw",
        ldflags="-X main.Version=v{version}",
        folder="bin",
    ),
    Component("etcd", module="go.etcd.io/etcd/server/v3", version="3.6.16"),
    Component(
        "kwok",
        module="sigs.k8s.io/kwok",
        version="0.8.0",
        package="cmd/kwok",
        ldflags="-X sigs.k8s.io/kwok/pkg/consts.Version=v{version}",
    ),
    *map(_kubernetes, ["kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]),
    *map(_kubernetes, ["kubelet", "kube-proxy", "kubeadm"]),
    Component(
        "kueue",
        module="sigs.k8s.io/kueue",
        version="0.16.6",
        package="cmd/kueue",
        ldflags="-X sigs.k8s.io/kueue/pkg/version.GitVersion=v{version}",
        # Outside of its pod there is no such folder: the webhooks' certificate does for the metrics, too.
        replaced=(Replacement("cmd/kueue/main.go", '"/etc/kueue/metrics/certs"', "cfg.Webhook.CertDir"),),
    ),
    Component("lws", module="sigs.k8s.io/lws", version="0.8.0", package="cmd"),
    Component(
        "helm",
        module="helm.sh/helm/v4",
        version="4.3.1",
        package="cmd/helm",
        ldflags="-X helm.sh/helm/v4/internal/version.version=v{version}",
    ),
    Component("kind", module="sigs.k8s.io/kind", version=KIND),
    Component("pause", module="testbed.kubegym.dev/pause", version="1.0.0", source="pause"),
    *map(_network_plugin, ["main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"]),
    *map(_containerd, ["containerd", "containerd-shim-runc-v2", "ctr"]),
    Component("coredns", module="github.com/coredns/coredns", version="1.15.0"),
    Component(
        # Its rule hands packets to the program by nftables' `queue`, which needs CONFIG_NFT_QUEUE. Kernels without it
        # mostly have the same as a target of iptables, which nftables can call; kernels with it have that, too.
        "kube-network-policies",
        module="sigs.k8s.io/kube-network-policies",
        version="1.1.0",
        package="cmd/kube-network-policies/standard",
        added=(("network_policies/nfqueue_target.go", "pkg/dataplane/nfqueue_target.go"),),
        replaced=(
            Replacement(
                "pkg/dataplane/controller.go",
                "queue := &expr.Queue{Num: uint16(c.config.QueueID)}\n"
                "\tif c.config.FailOpen {\n\t\tqueue.Flag = expr.QueueFlagBypass\n\t}\n",
                "queue := nfqueueTarget(c.config.QueueID, c.config.FailOpen)\n",
            ),
            # What it has allowed once it marks by a label of the connection, which needs NETFILTER_NETLINK_GLUE_CT.
            # Without the mark even answers are judged as if they were connections of their own: here a connection that
            # came about is let go on, whatever policies come later.
            Replacement(
                "pkg/dataplane/controller.go",
                "\t\t\t&expr.Ct{Register: 0x1, Key: expr.CtKeyLABELS},\n"
                "\t\t\t&expr.Bitwise{SourceRegister: 0x1, DestRegister: 0x1, Len: 16, "
                "Mask: generateLabelMask(c.config.CTLabelAccept), Xor: make([]byte, 16)},\n"
                "\t\t\t&expr.Cmp{Op: expr.CmpOpNeq, Register: 0x1, Data: make([]byte, 16)},\n"
                "\t\t\t&expr.Ct{Register: 0x1, Key: expr.CtKeySTATE},\n",
                "\t\t\t&expr.Ct{Register: 0x1, Key: expr.CtKeySTATE},\n",
            ),
        ),
    ),
    Component("metrics-server", module="sigs.k8s.io/metrics-server", version="0.9.0", package="cmd/metrics-server"),
    _keda("operator"),
    _keda("adapter"),
    # Never built: its CRDs say what a ServiceMonitor, a PodMonitor and a PrometheusRule are.
    Component(
        "prometheus-operator",
        module="github.com/prometheus-operator/prometheus-operator",
        version="0.85.0",
        package="cmd/operator",
    ),
]

COMPONENTS = {component.name: component for component in _ALL}

GROUPS = {
    # What a tier of tests needs, in the order in which it is built: what others wait for comes first.
    "contract": ("versitygw",),
    "cluster": (
        "etcd",
        "kubectl",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kwok",
        "kueue",
        "lws",
        "helm",
        "keda-operator",
        "keda-adapter",
    ),
    "node": (
        "pause",
        "cni/bridge",
        "cni/loopback",
        "cni/host-local",
        "cni/portmap",
        "kind",
        "kubelet",
        "kube-proxy",
        "kubeadm",
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "coredns",
        "kube-network-policies",
        "metrics-server",
    ),
}
