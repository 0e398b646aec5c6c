"""What builds, keeps and runs containers: buildah and podman, or docker.

podman and buildah work on storage, networks and settings of their own below ``~/.cache/kubegym/containers``: the
machine's own images are neither seen nor changed. Where there is a docker daemon and no root, docker is used;
``KUBEGYM_CONTAINERS`` (``podman`` or ``docker``) chooses.
"""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.build import CannotBuild, cache, say
from testbed.images_packages import BUILDING, RUNNING, require

COMMAND_SECONDS = 1800  # for one command on a loaded machine
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")


@dataclass(frozen=True)
class Engine:
    """A way to build and run containers.

    Attributes:
        name: ``podman`` or ``docker``.
        environment: in which its programs run, kind among them.
    """

    name: str
    environment: Mapping[str, str]

    def run(self, *command: str | Path, stdin: bytes | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """Run a program with this engine's settings, and return what it printed.

        Raises:
            CannotBuild: it failed; the message has the end of its output.
        """
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CannotBuild(f"{' '.join(map(str, command[:3]))} took more than {seconds:.0f} s") from error
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
            raise CannotBuild(f"{' '.join(map(str, command[:4]))} ended with {done.returncode}:\n{words}")
        return done.stdout.decode(errors="replace")

    def has(self, reference: str) -> bool:
        """Whether the image is in this engine's storage."""
        command = [self.name, "image", "inspect", reference]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def labels(self, reference: str) -> dict[str, str]:
        """The labels of an image."""
        return json.loads(self.run(self.name, "image", "inspect", reference))[0]["Config"].get("Labels") or {}

    def build(
        self,
        reference: str,
        context: Path,
        dockerfile: Path,
        *,
        target: str = "",
        arguments: Mapping[str, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
        layers: bool = True,
    ) -> None:
        """Build a Dockerfile with this machine's package index settings and proxies; none of them stays in the image.

        ``volumes`` are folders that the build sees (podman only); ``layers`` keeps every step for the next one.
        """
        words = ["--file", str(dockerfile), "--tag", reference, *(["--target", target] if target else [])]
        for name, value in (arguments or {}).items():
            words += ["--build-arg", f"{name}={value}"]
        for folder, place in (volumes or {}).items():
            words += ["--volume", f"{folder}:{place}:ro"]
        say(f"building {reference}")
        with _pip_secrets() as secrets:
            if self.name == "docker":
                self.run("docker", "build", "--quiet", "--network", "host", *secrets, *words, context)
                return
            names = ["--volume", "/etc/hosts:/etc/hosts:ro", "--volume", "/etc/resolv.conf:/etc/resolv.conf:ro"]
            offline = ["--pull-never", "--network", "host", *names]  # a base that is not here is an error at once
            kept = f"--layers={str(layers).lower()}"
            self.run("buildah", "build", "--quiet", kept, "--force-rm", *offline, *secrets, *words, context)

    def import_root(self, reference: str, archive: Path, settings: Sequence[str]) -> None:
        """Make an image of a root file system; ``settings`` are Dockerfile instructions, such as ``ENV A=b``."""
        changes = [word for setting in settings for word in ("--change", setting)]
        self.run(self.name, "import", *changes, archive, reference)

    def save(self, references: Sequence[str], archive: Path) -> None:
        """Write images into one archive that ``kind load image-archive`` and ``ctr images import`` read."""
        several = [] if self.name == "docker" else ["--format", "docker-archive", "--multi-image-archive"]
        self.run(self.name, "save", *several, "--output", archive, *references)

    def references(self, prefix: str) -> list[str]:
        """Every tagged image whose reference starts so."""
        listed = self.run(self.name, "images", "--format", "{{.Repository}}:{{.Tag}}").split()
        return sorted(reference for reference in listed if reference.startswith(prefix))

    def remove(self, references: Sequence[str]) -> None:
        """Remove images; one that a container uses stays."""
        for reference in references:
            command = [self.name, "rmi", reference]
            subprocess.run(command, env=self.environment, capture_output=True, check=False)


@functools.cache
def engine() -> Engine:
    """The engine of this machine; podman and what it needs are installed if root may do that.

    Raises:
        CannotBuild: there is none.
    """
    chosen = os.environ.get("KUBEGYM_CONTAINERS") or ("podman" if os.geteuid() == 0 else "docker")
    if chosen == "docker":
        if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
            raise CannotBuild("containers need root (for podman) or a docker daemon; here is neither")
        return Engine("docker", dict(os.environ))
    if chosen != "podman":
        raise CannotBuild(f"KUBEGYM_CONTAINERS is {chosen!r}; there are podman and docker")
    require(BUILDING | RUNNING)
    return Engine("podman", _podman_environment(cache() / "containers"))


def _podman_environment(folder: Path) -> dict[str, str]:
    (folder / "networks").mkdir(parents=True, exist_ok=True)
    run = Path("/run/kubegym")
    files, processes = (resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    # Limits within our own hard ones: without CAP_SYS_RESOURCE they cannot be raised, and podman's defaults are higher.
    files = 1048576 if files == resource.RLIM_INFINITY else files
    processes = 32768 if processes == resource.RLIM_INFINITY else min(processes, 32768)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{run}/containers"\n'
    )
    # runc: crun refuses machines with both versions of cgroups mounted.
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        f'[network]\nnetwork_backend = "cni"\nnetwork_config_dir = "{folder}/networks"\n'
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\ntmp_dir = "{run}/libpod"\n'
        f'[engine.runtimes]\nrunc = ["{shutil.which("runc") or "/usr/sbin/runc"}"]\n'
    )
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    (folder / "registries.conf").write_text("unqualified-search-registries = []\n")  # never look anywhere but here
    return {
        **os.environ,
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        "REGISTRIES_CONFIG_PATH": str(folder / "registries.conf"),
        "BUILDAH_ISOLATION": "chroot",
        "KIND_EXPERIMENTAL_PROVIDER": "podman",
    }


@contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """Arguments that show pip within a build what pip is told on this machine, and nothing else of it."""
    listed = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    # The last one wins, as with pip: the environment's are listed last.
    found = dict(re.findall(r"^\S*?\.([\w-]+)='(.*)'$", _environment_last(listed.stdout), re.MULTILINE))
    lines = [f"{name} = {value}" for name, value in found.items() if name in _PIP_SETTINGS]
    authorities = Path(found.get("cert") or os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    with tempfile.TemporaryDirectory(prefix="kubegym-pip-") as above:
        settings = Path(above, "pip.conf")
        arguments = ["--secret", f"id=pip,src={settings}"]
        if authorities.exists():
            lines.append("cert = /run/secrets/ca")
            arguments += ["--secret", f"id=ca,src={authorities}"]
        settings.write_text("\n".join(["[global]", *lines]) + "\n")
        yield arguments


def _environment_last(listed: str) -> str:
    lines = listed.splitlines()
    return "\n".join(sorted(lines, key=lambda line: line.startswith(":env:")))
