"""The real vLLM for CPUs in a container of its own, beside the tests: no cluster."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.images import vllm_image
from testbed.images_engine import Engine, engine
from testbed.k8s.process import free_ports

START_SECONDS = 600.0  # a loaded machine imports for minutes
# What keeps it small and quick on a CPU: no compiler, no second process for the engine, little memory for the cache.
ARGUMENTS = {
    "block-size": "32",
    "distributed-executor-backend": "uni",
    "dtype": "float32",
    "enable-auto-tool-choice": "",
    "enforce-eager": "",
    "max-model-len": "1024",
    "max-num-seqs": "64",
    "tool-call-parser": "hermes",
}
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@contextmanager
def vllm_server(
    model: Path, *arguments: str, variables: Mapping[str, str] | None = None, beside: Sequence[Path] = ()
) -> Iterator[str]:
    """Serve a folder as the model ``policy`` on loopback; its base URL, with ``/v1``.

    ``beside`` are folders that it sees under their own paths.

    Raises:
        testbed.build.CannotBuild: there is no image, and none can be built.
    """
    with vllm_servers(model, 1, *arguments, variables=variables, beside=beside) as (url,):
        yield url


@contextmanager
def vllm_servers(
    model: Path, count: int, *arguments: str, variables: Mapping[str, str] | None = None, beside: Sequence[Path] = ()
) -> Iterator[list[str]]:
    """Several of them, which start at the same time."""
    used = engine()
    words = [word for name, value in ARGUMENTS.items() for word in (f"--{name}", value) if word]
    words += ["--served-model-name", "policy", "--generation-config", "vllm", "--shutdown-timeout", "30", *arguments]
    started: list[tuple[str, int]] = []
    try:
        for port in free_ports(count):
            command = ["vllm", "serve", "/model", "--host", "127.0.0.1", "--port", str(port), *words]
            container = in_container(used, model, command, variables or {}, detached=True, beside=beside)
            started.append((container.strip(), port))
        for container, port in started:
            _await_health(used, container, f"http://127.0.0.1:{port}/health")
        yield [f"http://127.0.0.1:{port}/v1" for _, port in started]
    finally:
        for container, _ in started:
            removal = [used.name, "rm", "--force", container]
            subprocess.run(removal, env=used.environment, capture_output=True, check=False)


def in_container(
    used: Engine,
    model: Path,
    command: Sequence[str],
    variables: Mapping[str, str] | None = None,
    *,
    detached: bool = False,
    beside: Sequence[Path] = (),
    stdin: bytes | None = None,
) -> str:
    """Run a program of vLLM's image over a model's folder; what it prints, or the container's id."""
    settings = [f"--env={name}={value}" for name, value in {**VARIABLES, **(variables or {})}.items()]
    mode = ["--detach"] if detached else ["--rm", "--interactive"]
    place = ["--network=host", "--shm-size=1g", f"--volume={model.resolve()}:/model:ro", f"--entrypoint={command[0]}"]
    place += [f"--volume={folder.resolve()}:{folder.resolve()}:ro" for folder in beside]
    return used.run(used.name, "run", *mode, *place, *settings, vllm_image(), *command[1:], stdin=stdin)


def _await_health(used: Engine, container: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        running = used.run(used.name, "inspect", "--format", "{{.State.Running}}", container).strip()
        if running != "true" or time.monotonic() > deadline:
            said = subprocess.run(
                [used.name, "logs", container], env=used.environment, capture_output=True, check=False
            )
            raise AssertionError(f"vLLM does not serve:\n{(said.stdout + said.stderr).decode()[-20000:]}")
        time.sleep(1)
