"""What a kind node changes on the machine itself, and putting it back.

A kind node is a privileged container: its kubelet and kube-proxy set kernel parameters for the whole machine, and
podman's network leaves chains in the machine's iptables.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

from testbed.images_engine import Engine

_PARAMETERS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/default/forwarding",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "net/netfilter/nf_conntrack_max",
)
_MODULES = Path("/lib/modules")
_NAMESPACES = Path("/run/netns")
_CHAINS = ("iptables", "ip6tables")


def remember(state: Path) -> None:
    """Write down how the machine is, once: a second cluster finds what the first one changed."""
    if state.exists():
        return
    before = {
        "parameters": {name: text for name in _PARAMETERS if (text := _parameter(name)) is not None},
        "chains": {name: _rules(name) for name in _CHAINS},
        "modules": _MODULES.exists(),
        "namespaces": str(_NAMESPACES) in _mounts(),
    }
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps(before))
    _MODULES.mkdir(exist_ok=True)  # kind mounts it; a machine whose kernel has no modules may not have it


def put_back(state: Path, used: Engine) -> None:
    """Undo what the cluster and podman's network for it have left on the machine."""
    if not state.exists():
        return
    before = json.loads(state.read_text())
    used.run("podman", "network", "rm", "--force", "kind")
    for name, rules in before["chains"].items():
        if "CNI-" not in rules:
            kept = "".join(f"{rule}\n" for rule in _rules(name).splitlines() if "CNI-" not in rule)
            used.run(f"{name}-restore", stdin=kept.encode())
    for name, text in before["parameters"].items():
        if _parameter(name) != text:
            Path("/proc/sys", name).write_text(text)
    if not before["modules"]:
        with contextlib.suppress(OSError):
            _MODULES.rmdir()
    if not before["namespaces"] and str(_NAMESPACES) in _mounts() and not any(_NAMESPACES.iterdir()):
        used.run("umount", _NAMESPACES)
    for parent in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for folder, _, _ in os.walk(parent, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    state.unlink()


def traces() -> dict[str, object]:
    """What a cluster could leave on the machine: to compare before it is made with after it is removed."""
    return {
        "parameters": {name: _parameter(name) for name in _PARAMETERS},
        "rules": {name: _rules_alone(name) for name in _CHAINS},
        "mounts": sorted(each for each in _mounts() if "containers/storage/overlay/" in each or "netns" in each),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "namespaces": sorted(path.name for path in _NAMESPACES.glob("*")),
        "control groups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/libpod*")),
        "processes": sorted(name for name in map(_program, Path("/proc").glob("[0-9]*")) if name in _PROGRAMS),
        "modules": _MODULES.exists(),
    }


def left_since(before: dict[str, object]) -> dict[str, object]:
    """What is there now and was not, or is otherwise. What went away, such as an earlier container, is no trace."""
    found: dict[str, object] = {}
    for name, now in traces().items():
        then = before[name]
        if isinstance(now, list) and isinstance(then, list):
            more = [*(Counter(now) - Counter(then)).elements()]
            found |= {name: more} if more else {}
        elif now != then:
            found[name] = now
    return found


_PROGRAMS = ("conmon", "containerd", "containerd-shim", "kubelet", "kube-proxy")


def _mounts() -> list[str]:
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]


def _program(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""  # it has just ended


def _rules_alone(name: str) -> list[str]:
    """The rules without counters and comments; chains of kernel tables that are there but empty say nothing."""
    return [rule for rule in _rules(name).splitlines() if rule.startswith("-")]


def _parameter(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text()
    except OSError:
        return None


def _rules(name: str) -> str:
    try:
        return subprocess.run([f"{name}-save"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
