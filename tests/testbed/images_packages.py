"""Programs that come from Debian's packages: installed where root may do that, otherwise named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from testbed.build import CannotBuild, cache, exclusively, say

BUILDING = {"buildah": "buildah", "crun": "crun", "mmdebstrap": "mmdebstrap", "newuidmap": "uidmap"}
RUNNING = {
    "podman": "podman",
    "runc": "runc",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
INSTALL_SECONDS = 900


def require(programs: dict[str, str]) -> None:
    """Make sure that ``programs``, by the package each comes from, are there.

    Raises:
        CannotBuild: some are missing and cannot be installed; the message names their packages.
    """
    if not _missing(programs):
        return
    with exclusively(cache() / "packages.lock"):
        packages = _missing(programs)
        if not packages:
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise CannotBuild(f"missing programs; on Debian: apt-get install {' '.join(packages)}")
        say(f"installing {' '.join(packages)}")
        install = ["install", "--yes", "--quiet", "--no-install-recommends", *packages]
        # Package lists may be absent or old: then they are fetched, and it is tried again.
        if _apt_get(install).returncode != 0:
            _apt_get(["update", "--quiet"])
            done = _apt_get(install)
            if done.returncode != 0:
                raise CannotBuild(f"apt-get install {' '.join(packages)} failed:\n{done.stdout[-2000:]}")


def _missing(programs: dict[str, str]) -> list[str]:
    return sorted({package for program, package in programs.items() if not _is_there(program)})


def _is_there(program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is not None


def _apt_get(arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
