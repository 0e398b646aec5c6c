"""The image of a kind node, made here: Debian's packages, kind's files, and the programs of ``testbed.build``.

What ``kind build node-image`` fetches from registries and release pages is taken from Debian and the Go module proxy
instead. ``KUBEGYM_NODE_IMAGE`` names an image to use in its place, such as an official one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from testbed.build import binary, cache, exclusively, module_folder, say
from testbed.components import GROUPS, KUBERNETES
from testbed.images import PREFIX, debian_root
from testbed.images_engine import Engine

HERE = Path(__file__).resolve().parent
FILES = HERE / "kind_files" / "node"
_PACKAGES = (
    *("systemd", "systemd-sysv", "mount", "kmod", "procps"),
    *("conntrack", "iptables", "nftables", "iproute2", "ethtool", "socat"),
    *("runc", "libseccomp2", "ca-certificates", "curl", "jq"),
)
_STATIC_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns", "pause")
_PROGRAMS = (*_STATIC_PODS, "kube-proxy", "kubelet", "kubeadm", "kubectl")
_RUNTIME = ("containerd", "containerd-shim-runc-v2", "ctr")
_PLUGINS = tuple(name for name in GROUPS["node"] if name.startswith("cni/"))


def node_image(used: Engine) -> str:
    """Reference of the node's image, built first if need be; empty where kind's default is to be pulled.

    Raises:
        testbed.build.CannotBuild: a program or package of it cannot be had.
    """
    given = os.environ.get("KUBEGYM_NODE_IMAGE", "")
    if given or used.name == "docker":
        return given
    programs = {name: binary(name) for name in (*_PROGRAMS, *_RUNTIME, *_PLUGINS)}
    reference = f"{PREFIX}node:v{KUBERNETES}-{_key(programs)}"
    with exclusively(cache() / "containers" / "node.lock"):
        if not used.has(reference):
            with tempfile.TemporaryDirectory(prefix="kubegym-node-", dir=cache()) as above:
                _build(used, reference, programs, Path(above))
            used.remove([image for image in used.references(f"{PREFIX}node:") if image != reference])
    return reference


def _key(programs: dict[str, Path]) -> str:
    """Digest of what the node is made of."""
    digest = hashlib.sha256(repr(_PACKAGES).encode() + Path(__file__).read_bytes())
    for name, path in programs.items():
        digest.update(name.encode() + (path.parent / ".key" / path.name).read_bytes())
    for file in sorted(FILES.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _build(used: Engine, reference: str, programs: dict[str, Path], above: Path) -> None:
    say(f"making a kind node of Kubernetes {KUBERNETES} (a minute or two, once)")
    base = _base(used, above)
    layout = above / "layout"
    images = _images_of_kubeadm(used, programs["kubeadm"])
    _lay_out(used, layout, programs, images["pause"])
    archives = layout / "kind" / "images"
    archives.mkdir()
    for name in _STATIC_PODS:
        _one_program(used, images[name], programs[name], above / name, "scratch", settings=_SETTINGS.get(name, ""))
    _one_program(used, images["kube-proxy"], programs["kube-proxy"], above / "kube-proxy", base)
    used.save(list(images.values()), archives / "kubernetes.tar")
    shutil.copy(FILES / "Dockerfile", above / "Dockerfile")
    used.build(reference, above, above / "Dockerfile", arguments={"BASE": base}, layers=False)
    used.remove(list(images.values()))


_SETTINGS = {"coredns": 'ENTRYPOINT ["/coredns"]\n', "pause": 'USER 65535:65535\nENTRYPOINT ["/pause"]\n'}


def _base(used: Engine, above: Path) -> str:
    """An image of the packages alone: the node's, and kube-proxy's, which calls iptables."""
    reference = f"{PREFIX}node-base:{hashlib.sha256(repr(_PACKAGES).encode()).hexdigest()[:12]}"
    if not used.has(reference):
        archive = above / "root.tar"
        debian_root(archive, "minbase", _PACKAGES, 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*')
        used.import_root(reference, archive, ["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        archive.unlink()
    return reference


def _images_of_kubeadm(used: Engine, kubeadm: Path) -> dict[str, str]:
    """The references that kubeadm will ask for, by the last part of their name."""
    listed = used.run(kubeadm, "config", "images", "list", "--kubernetes-version", f"v{KUBERNETES}").split()
    return {reference.rsplit("/", 1)[-1].split(":")[0]: reference for reference in listed}


def _lay_out(used: Engine, layout: Path, programs: dict[str, Path], pause: str) -> None:
    """The node's file system above its packages."""
    kind = module_folder("kind") / "images" / "base" / "files"
    for folder in ("etc", "kind", "usr"):
        shutil.copytree(kind / folder, layout / folder, copy_function=shutil.copyfile)
    for path in [layout, *layout.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    _install(layout / "usr" / "bin", (programs[name] for name in ("kubelet", "kubeadm", "kubectl")))
    _install(layout / "usr" / "local" / "bin", (programs[name] for name in _RUNTIME))
    _install(layout / "opt" / "cni" / "bin", (programs[name] for name in _PLUGINS))
    _write(layout / "etc/cni/net.d/10-bridge.conflist", (FILES / "bridge.conflist").read_text())
    _write(layout / "etc/systemd/system/load-images.service", (FILES / "load-images.service").read_text())
    _write(layout / "kind/manifests/default-storage.yaml", (FILES / "storage.yaml").read_text())
    _write(layout / "kind/version", f"v{KUBERNETES}\n")
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        # A machine of two cores has to hold a cluster's own programs and a run: kubeadm asks for 0.65 of them.
        modest = {"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": "10m"}}}]}}
        _write(layout / f"kind/patches/{name}.json", json.dumps(modest))
    _settle_for_less(layout, pause)
    spec = json.loads(used.run(programs["ctr"], "oci", "spec"))
    spec.setdefault("hooks", {}).setdefault("createContainer", []).append({"path": "/kind/bin/mount-product-files.sh"})
    spec["process"].pop("rlimits", None)
    _write(layout / "etc/containerd/cri-base.json", json.dumps(spec))


def _settle_for_less(layout: Path, pause: str) -> None:
    """Without CAP_SYS_RESOURCE no limit can be raised, and no oom_score_adj go below our own."""
    unit = layout / "etc/systemd/system/containerd.service"
    unit.write_text(re.sub(r"^(Limit|OOMScoreAdjust).*\n", "", unit.read_text(), flags=re.MULTILINE))
    config = layout / "etc/containerd/config.toml"
    text = config.read_text().replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    config.write_text(re.sub(r'sandbox_image = ".*"', f'sandbox_image = "{pause}"', text))


def _one_program(used: Engine, reference: str, program: Path, above: Path, base: str, settings: str = "") -> None:
    """An image with one program where the manifests of kubeadm call it."""
    place = f"/{program.name}" if settings else f"/usr/local/bin/{program.name}"
    above.mkdir()
    os.link(program, above / program.name)
    recipe = above / "Dockerfile"
    path = "" if base != "scratch" else "ENV PATH=/usr/local/bin:/usr/bin:/bin\n"
    recipe.write_text(f"FROM {base}\nCOPY {program.name} {place}\n{path}{settings}")
    used.build(reference, above, recipe, layers=False)


def _install(folder: Path, programs: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        os.link(program, folder / program.name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
