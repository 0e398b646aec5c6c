"""Build the servers of the test bed from their Go modules: ``PYTHONPATH=tests python -m testbed.build versitygw``.

Binaries lie in ``~/.cache/kubegym/bin`` (or ``$KUBEGYM_CACHE/bin``) beside the key each was built with: version, Go
version and flags. The same key is not built again; nothing else of the cache is needed, and deleting it is safe. Two
builders wait for each other, and a binary appears whole or not at all.

A server is built inside a wrapper module that only requires it: ``go install module@version`` refuses modules with
``replace`` directives, which some of the servers have.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUILD_SECONDS = 1800  # on a loaded machine; versitygw takes about 80 s of two idle cores


@dataclass(frozen=True)
class Component:
    """A program and how it is built.

    Attributes:
        name: of the binary.
        module: Go module to require.
        version: of the module, without the ``v``.
        package: what to build, within the module.
        ldflags: for the linker, besides ``-s -w``; ``{version}`` is filled in.
        tags: build tags.
    """

    name: str
    module: str
    version: str
    package: str
    ldflags: str = ""
    tags: str = ""

    def flags(self) -> list[str]:
        ldflags = f"-s -w {self.ldflags.format(version=self.version)}".strip()
        return ["-mod=mod", "-trimpath", "-buildvcs=false", "-tags", self.tags, "-ldflags", ldflags]

    def key(self, go_version: str) -> str:
        return "\n".join([f"{self.module}/{self.package}@v{self.version}", go_version, *self.flags()])


COMPONENTS = {
    component.name: component
    for component in [
        Component(
            "versitygw",
            module="github.com/versity/versitygw",
            version="1.8.0",
            package="cmd/versitygw",
            ldflags="-X main.Version=v{version}",
        ),
    ]
}


class CannotBuild(Exception):
    """The machine lacks what a build needs, or the build failed; the message says which."""


def binary(name: str) -> Path:
    """The program ``name``, built first if need be.

    Raises:
        CannotBuild: no Go, or the build failed.
    """
    component = COMPONENTS[name]
    folder = _cache() / "bin"
    target = folder / name
    go = shutil.which("go")
    if go is None:
        raise CannotBuild(f"building {name} needs Go: `go` is not on the PATH (https://go.dev/dl)")
    key = component.key(_go_version(go))
    (folder / ".key").mkdir(parents=True, exist_ok=True)
    with _exclusively(folder / ".key" / f"{name}.lock"):
        written = folder / ".key" / name
        if target.exists() and written.exists() and written.read_text() == key:
            return target
        _say(f"building {name} {component.version} from {component.module} (a minute or two, once)")
        began = time.monotonic()
        written.unlink(missing_ok=True)
        _build(go, component, target)
        written.write_text(key)
        _say(f"built {target} in {time.monotonic() - began:.0f} s, {target.stat().st_size / 1e6:.0f} MB")
    return target


def _build(go: str, component: Component, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kubegym-build-") as wrapper:
        version = _go_version(go).removeprefix("go")
        Path(wrapper, "go.mod").write_text(
            f"module testbed.kubegym.dev/{component.name}\n\ngo {version}\n\n"
            f"require {component.module} v{component.version}\n"
        )
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        command = [go, "build", *component.flags(), "-o", str(partial), f"{component.module}/{component.package}"]
        try:
            done = subprocess.run(
                ["nice", "-n", "10", *command],
                cwd=wrapper,
                env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""},
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


def _go_version(go: str) -> str:
    # Asked from the root: a go.mod in the current folder could name another toolchain.
    done = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def _cache() -> Path:
    configured = os.environ.get("KUBEGYM_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "kubegym"


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another builder of {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.build", description="Build the servers of the test bed.")
    parser.add_argument("names", nargs="*", choices=[[], *COMPONENTS], help="default: all", metavar="NAME")
    names = parser.parse_args().names or list(COMPONENTS)
    for name in names:
        try:
            print(binary(name))
        except CannotBuild as error:
            _say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
