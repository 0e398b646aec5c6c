"""Build the programs of the test bed from their Go modules: ``PYTHONPATH=tests python -m testbed.build versitygw``.

Binaries lie in ``~/.cache/kubegym`` (or ``$KUBEGYM_CACHE``), those of Kubernetes in ``k8s/bin``, the others in ``bin``,
beside the key each was built with: version, Go version and flags. The same key is not built again; nothing else of the
cache is needed, and deleting it is safe. Two builders wait for each other, and a binary appears whole or not at all.
``testbed.components`` says which programs there are.

A program is built inside a wrapper module that only requires it: ``go install module@version`` refuses modules with
``replace`` directives, which many of them have.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.components import COMPONENTS, GROUPS, HERE, Component

BUILD_SECONDS = 1800  # each, on a loaded machine; the largest takes 4 minutes of two idle cores


class CannotBuild(Exception):
    """The machine lacks what a build needs, or the build failed; the message says which."""


def binary(name: str) -> Path:
    """The program ``name``, built first if need be.

    Raises:
        CannotBuild: no Go, or the build failed.
    """
    component = COMPONENTS[name]
    target = cache() / component.folder / name
    go = _go(name)
    key = component.key(_go_version(go))
    written = target.parent / ".key" / target.name
    written.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(written.with_name(f"{target.name}.lock")):
        if target.exists() and written.exists() and written.read_text() == key:
            return target
        say(f"building {name} {component.version} from {component.module} (minutes, once)")
        began = time.monotonic()
        written.unlink(missing_ok=True)
        _build(go, component, target)
        written.write_text(key)
        say(f"built {target} in {time.monotonic() - began:.0f} s, {target.stat().st_size / 1e6:.0f} MB")
    return target


def module_folder(name: str) -> Path:
    """Where the Go module of a program lies, unpacked and read-only: its charts, manifests and image files.

    Raises:
        CannotBuild: no Go, or the module could not be fetched.
    """
    component = COMPONENTS[name]
    return Path(_fetch(_go(name), component.module, component.version)["Dir"])


def _build(go: str, component: Component, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kubegym-build-") as above:
        wrapper = Path(above)
        _write_wrapper(go, component, wrapper)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        package = "." if component.source else component.import_path
        command = [go, "build", *component.flags(), "-o", str(partial), package]
        try:
            done = subprocess.run(
                ["nice", "-n", "10", *command],
                cwd=wrapper,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                tail = "\n".join(done.stdout.splitlines()[-20:])
                raise CannotBuild(f"go build of {component.name} ended with {done.returncode}:\n{tail}")
            partial.rename(target)
        except subprocess.TimeoutExpired as error:
            raise CannotBuild(f"go build of {component.name} took more than {BUILD_SECONDS} s") from error
        finally:
            partial.unlink(missing_ok=True)


def _write_wrapper(go: str, component: Component, wrapper: Path) -> None:
    """The module in which a program is built: what it requires, and what is replaced."""
    lines = [f"module testbed.kubegym.dev/{component.name}", f"go {_go_version(go).removeprefix('go')}"]
    if component.source:
        shutil.copytree(HERE / component.source, wrapper, dirs_exist_ok=True)
    else:
        lines.append(f"require {component.module} v{component.version}")
    if component.staging:
        # The published module requires the repositories of its own tree at v0.0.0, and means their tag of its release.
        required = Path(_fetch(go, component.module, component.version)["GoMod"]).read_text()
        published = component.version.replace("1", "0", 1)
        for staged in sorted(set(re.findall(r"^\s*(k8s\.io/[a-z0-9-]+) v0\.0\.0(?:\s|$)", required, re.MULTILINE))):
            lines.append(f"replace {staged} => {staged} v{published}")
    if component.changed:
        _copy_changed(Path(_fetch(go, component.module, component.version)["Dir"]), component, wrapper / "source")
        lines.append(f"replace {component.module} => ./source")
        # Of its dependencies: the checksum database does not know all of them, the verified module does.
        shutil.copy(wrapper / "source" / "go.sum", wrapper / "go.sum")
    (wrapper / "go.mod").write_text("\n".join(lines) + "\n")


def _copy_changed(module: Path, component: Component, target: Path) -> None:
    shutil.copytree(module, target, copy_function=shutil.copyfile)  # without the modes: the module cache is read-only
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    for pattern in component.left_out:
        files = list(target.glob(pattern))
        if not files:
            raise CannotBuild(f"{component.module} v{component.version} has no {pattern}, which was to be left out")
        for file in files:
            file.unlink()
    for name, place in component.added:
        shutil.copyfile(HERE / name, target / place)
    for replacement in component.replaced:
        file = target / replacement.file
        text = file.read_text()
        if replacement.old not in text:
            raise CannotBuild(f"{component.module} v{component.version}: {replacement.file} is not what was expected")
        file.write_text(text.replace(replacement.old, replacement.new))


def _fetch(go: str, module: str, version: str) -> dict[str, str]:
    """Fetch a module. Its fields as ``go mod download -json`` gives them: ``Dir``, ``GoMod``, ..."""
    with tempfile.TemporaryDirectory(prefix="kubegym-fetch-") as nowhere:
        done = subprocess.run(
            [go, "mod", "download", "-json", f"{module}@v{version}"],
            cwd=nowhere,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        raise CannotBuild(f"{module} v{version} could not be fetched:\n{(done.stdout + done.stderr)[-2000:]}")
    fields: dict[str, str] = json.loads(done.stdout)
    return fields


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}


def _go(name: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise CannotBuild(f"building {name} needs Go: `go` is not on the PATH (https://go.dev/dl)")
    return go


@functools.cache
def _go_version(go: str) -> str:
    # Asked from the root: a go.mod in the current folder could name another toolchain.
    done = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def cache() -> Path:
    """The folder of everything that was made once and is kept; deleting it is safe."""
    configured = os.environ.get("KUBEGYM_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "kubegym"


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another builder of {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.build", description="Build the programs of the test bed.")
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*GROUPS, *COMPONENTS],
        metavar="NAME",
        help=f"what a tier of tests needs ({', '.join(GROUPS)}), or one program ({', '.join(COMPONENTS)})",
    )
    for name in [name for chosen in parser.parse_args().names for name in GROUPS.get(chosen, (chosen,))]:
        try:
            print(binary(name), flush=True)
        except CannotBuild as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
