"""The container images of the test bed: ``PYTHONPATH=tests python -m testbed.images [NAME ...]``.

The project's own are built from the Dockerfiles at the top, on a base made of Debian's packages where images come from
no registry (``KUBEGYM_BASE`` names another base). Their tag is a digest of what they are built from: what has not
changed is not built again, and a cluster never runs an older build under the same name.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from testbed.build import CannotBuild, binary, cache, exclusively, say
from testbed.images_engine import COMMAND_SECONDS, Engine, engine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROLES = ("model", "agent", "resources", "operator")
SERVICES = {  # images that hold one program of testbed.build
    "s3": "versitygw",
    "metrics-server": "metrics-server",
    "network-policies": "kube-network-policies",
}
PREFIX = "localhost/kubegym-"
_SOURCES = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "environments", "operator", "services")
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "libseccomp2", "netbase", "python3", "python3-pip", "python3-venv", "tzdata")
_UNUSED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_LEFT_OUT = (
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*; : > "$1"/etc/resolv.conf; ln -s python3 "$1"/usr/bin/python'
)
_BASE_SETTINGS = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    "ENV PIP_BREAK_SYSTEM_PACKAGES=1",
    "ENV PIP_ROOT_USER_ACTION=ignore",
    'CMD ["python"]',
)


def project_images() -> dict[str, str]:
    """References of the project's images by role, built first if need be.

    Raises:
        CannotBuild: there is no engine, or a build failed.
    """
    used = engine()
    with exclusively(_lock("project")):
        references = _references(ROOT)
        if all(map(used.has, references.values())):
            return references
        # Of a copy: somebody may write on while it is built, and all images are to be of the same state.
        with tempfile.TemporaryDirectory(prefix="kubegym-sources-", dir=cache()) as above:
            sources = Path(above)
            for file in _source_files(ROOT):
                (sources / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, sources / file.relative_to(ROOT))
            references = _references(sources)
            arguments = {"BASE": base_image(used), "VERSION": _tag(sources), "REVISION": _revision()}
            for role, reference in references.items():
                if not used.has(reference):
                    used.build(reference, sources, sources / f"Dockerfile.{role}", arguments=arguments)
                    old = [image for image in used.references(f"{PREFIX}{role}:dev-") if image != reference]
                    used.remove(old)
    return references


def _references(sources: Path) -> dict[str, str]:
    tag = _tag(sources)
    return {role: f"{PREFIX}{role}:{tag}" for role in ROLES}


def _tag(sources: Path) -> str:
    digest = hashlib.sha256(base_key().encode())
    for file in sorted(_source_files(sources)):
        digest.update(str(file.relative_to(sources)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return f"dev-{digest.hexdigest()[:12]}"


def vllm_image() -> str:
    """Reference of an image of the real vLLM for CPUs, built first if need be.

    Raises:
        CannotBuild: the torch wheel that it needs is not in ``KUBEGYM_TORCH_WHEEL`` (default: ``../shared/wheels``).
    """
    given = Path(os.environ.get("KUBEGYM_TORCH_WHEEL") or ROOT.parent / "shared" / "wheels")
    wheels = given.parent if given.is_file() else given
    if not list(wheels.glob("torch-2.13.0+cpu-cp311-*.whl")):
        raise CannotBuild(f"vLLM for CPUs needs the wheel torch-2.13.0+cpu for Python 3.11; none in {wheels}")
    used, recipe = engine(), HERE / "vllm"
    key = hashlib.sha256(base_key().encode())
    for file in (*sorted(recipe.iterdir()), ROOT / "Dockerfile.model"):
        key.update(file.read_bytes())
    reference = f"{PREFIX}vllm:cpu-{key.hexdigest()[:12]}"
    with exclusively(_lock("vllm")):
        if not used.has(reference):
            cpu = f"{PREFIX}vllm-cpu:0.32.0"
            base = {"BASE": base_image(used)}
            used.build(cpu, recipe, recipe / "Dockerfile", arguments=base, volumes={wheels.resolve(): "/torch"})
            recipe = ROOT / "Dockerfile.model"
            used.build(reference, ROOT, recipe, target="vllm", arguments={"VLLM_BASE": cpu})
            used.remove([image for image in used.references(f"{PREFIX}vllm:") if image != reference])
    return reference


def service_image(name: str) -> str:
    """Reference of an image that holds one program only, built first if need be.

    Raises:
        CannotBuild: there is no engine, or the program cannot be built.
    """
    program = binary(SERVICES[name])
    key = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    reference = f"{PREFIX}{name}:{key}"
    used = engine()
    with exclusively(_lock(name)):
        if not used.has(reference):
            with tempfile.TemporaryDirectory(prefix="kubegym-image-", dir=cache()) as above:
                shutil.copy(program, Path(above, program.name))
                recipe = Path(above, "Dockerfile")
                recipe.write_text(
                    f"FROM scratch\nCOPY {program.name} /{program.name}\n"
                    f'USER 65532:65532\nENTRYPOINT ["/{program.name}"]\n'
                )
                used.build(reference, Path(above), recipe, layers=False)
    return reference


def base_key() -> str:
    """What the base depends on; another key means another image."""
    given = os.environ.get("KUBEGYM_BASE", "")
    return given or hashlib.sha256(repr((_SUITE, _PACKAGES, _UNUSED, _LEFT_OUT, _BASE_SETTINGS)).encode()).hexdigest()


def base_image(used: Engine) -> str:
    """Reference of the image that the project's are built on.

    Raises:
        CannotBuild: Debian's packages cannot be had.
    """
    given = os.environ.get("KUBEGYM_BASE", "")
    if given or used.name == "docker":
        return given or "python:3.11-slim-bookworm"
    reference = f"{PREFIX}base:{base_key()[:12]}"
    with exclusively(_lock("base")):
        if not used.has(reference):
            with tempfile.TemporaryDirectory(prefix="kubegym-base-", dir=cache()) as above:
                archive = Path(above, "root.tar")
                debian_root(archive, "minbase", _PACKAGES, _LEFT_OUT)
                used.import_root(reference, archive, _BASE_SETTINGS)
    return reference


def debian_root(archive: Path, variant: str, packages: Sequence[str], finish: str) -> None:
    """Make the root file system of a Debian with ``packages``; ``finish`` is run on it by a shell, as ``$1``.

    Raises:
        CannotBuild: Debian's packages cannot be had.
    """
    say(f"making a Debian {_SUITE} of {len(packages)} packages (a minute or two, once)")
    command = ["nice", "-n", "10", "mmdebstrap", "--quiet", f"--variant={variant}", "--mode=root"]
    command += ["--aptopt=APT::Install-Recommends false", f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNUSED]
    command += [f"--customize-hook={finish}", _SUITE, str(archive)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuild(f"mmdebstrap ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _source_files(root: Path) -> Iterator[Path]:
    """What .dockerignore lets into a build, and the Dockerfiles."""
    yield from (root / f"Dockerfile.{role}" for role in ROLES)
    yield root / ".dockerignore"
    for name in _SOURCES:
        path = root / name
        files = path.rglob("*") if path.is_dir() else [path]
        for file in files:
            parts = file.relative_to(root).parts
            tested = parts[0] == "environments" and ("tests" in parts[2:3] or parts[1:] == ("conftest.py",))
            if file.is_file() and "__pycache__" not in parts and not tested:
                yield file


def _revision() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _lock(name: str) -> Path:
    path = cache() / "containers" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.images", description="Build the images of the test bed.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"project (default), {', '.join(SERVICES)}, vllm")
    try:
        for name in parser.parse_args().names or ["project"]:
            if name == "project":
                references = list(project_images().values())
            else:
                references = [vllm_image() if name == "vllm" else service_image(name)]
            print(*references, sep="\n", flush=True)
    except CannotBuild as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
