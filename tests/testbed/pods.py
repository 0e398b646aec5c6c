"""What a cluster would do for a RolloutJob's pods: their files, their environment, and their processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kubegym.storage import ObjectStore, StoreOptions, open_store
from testbed.runs import assert_exactly_once
from testbed.s3 import S3Server

ROOT = Path(__file__).resolve().parents[2]
_URL = re.compile(r"http://[^\s/]+")


def environment_manifest(name: str, agent: str = "Worker", resources: str = "Worker", **spec: Any) -> dict[str, Any]:
    """A GymEnvironment with the sample manifest's configuration, placed somewhere."""
    documents = yaml.safe_load_all((ROOT / "environments" / name / "environment.yaml").read_text())
    manifest: dict[str, Any] = next(d for d in documents if d["kind"] == "GymEnvironment")
    given = manifest["spec"]
    parts = {
        "agent": {**given.get("agent", {}), "placement": agent},
        "resources": {**given.get("resources", {}), "placement": resources},
    }
    return {**manifest, "spec": {**given, **parts, **spec}}


def frozen_run(
    uri: str,
    entries: Mapping[str, dict[str, Any]],
    *,
    endpoint: str | None = None,
    uid: str = "uid-1",
    **spec: Any,
) -> dict[str, Any]:
    """``run.json``.

    Args:
        uri: of the output.
        entries: by name: ``manifest``, ``endpoints``, and what else the job's entry says.
        endpoint: of the output's store.
        uid: the RolloutJob's.
        spec: of the RolloutJob.
    """
    output = {"uri": uri, "region": "us-east-1", "flush": {"seconds": 1}, **spec.pop("output", {})}
    if endpoint is not None:
        output |= {"endpoint": endpoint, "credentialsSecretRef": {"name": "output"}}
    environments = []
    for name, entry in entries.items():
        more = {key: value for key, value in entry.items() if key not in ("manifest", "endpoints")}
        reference = {"name": entry["manifest"]["metadata"]["name"]}
        environments.append({"name": name, "environmentRef": reference, "dataset": {"bundled": {}}, **more})
    collected = json.dumps([environments, {name: spec[name] for name in sorted(spec) if name != "parallelism"}])
    return {
        "schema": 1,
        "name": "job",
        "namespace": "default",
        "uid": uid,
        "digest": hashlib.sha256(collected.encode()).hexdigest(),
        "spec": {"environments": environments, "output": output, **spec},
        "environments": {
            name: {"manifest": entry["manifest"], "endpoints": entry["endpoints"]} for name, entry in entries.items()
        },
    }


@dataclass
class Cluster:
    """A folder that stands for what is mounted into the pods of one job, and the store that they write to."""

    folder: Path
    s3: S3Server
    bucket: str
    workers: int = 1
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        secrets = self.folder / "var/run/secrets/kubegym/output"
        secrets.mkdir(parents=True)
        for name, value in self.s3.credentials.items():
            (secrets / name).write_text(value)
        (self.folder / "pace.json").write_text('{"concurrency": 4}')

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    def freeze(self, prefix: str, entries: Mapping[str, dict[str, Any]], **spec: Any) -> None:
        """Write ``run.json`` of a job that collects into a prefix of the bucket."""
        run = frozen_run(f"s3://{self.bucket}/{prefix}/", entries, endpoint=self.s3.endpoint, **spec)
        self.run_file.write_text(json.dumps(run))

    def pace(self, concurrency: int) -> None:
        """Change the pace, as a mounted ConfigMap changes: another file in the place."""
        fresh = self.folder / "pace.new"
        fresh.write_text(json.dumps({"concurrency": concurrency}))
        fresh.replace(self.folder / "pace.json")

    def store(self, prefix: str) -> ObjectStore:
        """What the job wrote."""
        options = StoreOptions(endpoint=self.s3.endpoint, region="us-east-1", credentials=self.s3.credentials)
        return open_store(f"s3://{self.bucket}/{prefix}", options=options)

    def environment(self, pod: str, index: int | None = None) -> dict[str, str]:
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "POD_NAME": pod,
            "KUBEGYM_WORKERS": str(self.workers),
            "KUBEGYM_MOUNT_ROOT": str(self.folder),
            "KUBEGYM_TERMINATION_LOG": str(self.folder / f"{pod}.words"),
            **self.variables,
        }
        return variables if index is None else {**variables, "JOB_COMPLETION_INDEX": str(index)}

    def words(self, pod: str) -> dict[str, Any]:
        """What a pod said last."""
        said: dict[str, Any] = json.loads((self.folder / f"{pod}.words").read_bytes())
        return said

    def log(self, pod: str) -> str:
        return (self.folder / f"{pod}.log").read_text()

    async def start(self, pod: str, *arguments: str, index: int | None = None) -> asyncio.subprocess.Process:
        """Start ``kubegym ARGUMENTS`` as a pod does: a session of its own, output in ``<pod>.log``."""
        with (self.folder / f"{pod}.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "kubegym.cli.main", *arguments),
                env=self.environment(pod, index),
                cwd=self.folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def add_environment(self, name: str, code: str) -> Path:
        """An environment that the image of these pods has, beside those that come with KubeGym; its folder."""
        folder = self.folder / "environments" / name
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(code)
        return folder

    def add_rows(self, entry: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The dataset of an entry, in a mounted ConfigMap."""
        folder = self.folder / "etc/kubegym/dataset" / entry
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"configMapRef": {"name": "rows", "key": "rows.jsonl"}}

    async def worker(self, pod: str, index: int | None = None) -> asyncio.subprocess.Process:
        """Start a worker."""
        files = ("--run", str(self.run_file), "--pace", str(self.folder / "pace.json"))
        return await self.start(pod, "worker", *files, "--listen", "127.0.0.1:0", index=index)

    async def finalise(self, pod: str = "finaliser") -> int:
        """Run the finaliser to its end; its exit code."""
        process = await self.start(pod, "finalise", "--run", str(self.run_file))
        await process.communicate()
        assert process.returncode is not None
        return process.returncode


async def url_of(process: asyncio.subprocess.Process) -> str:
    """Where a worker serves its probes."""
    assert process.stdout is not None
    found = _URL.search((await process.stdout.readline()).decode())
    assert found is not None
    return found[0]


def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL for everything in the pod."""
    with suppress(ProcessLookupError):  # it ended in this moment
        os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def pods_end(processes: list[asyncio.subprocess.Process]) -> AsyncIterator[None]:
    """Whatever happens in the block, no pod outlives it."""
    try:
        yield
    finally:
        for process in processes:
            if process.returncode is None:
                kill(process)
                await process.communicate()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in another process, which tells nobody when it happens; the test bounds the wait."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


@contextmanager
def serve_process(*arguments: str) -> Iterator[str]:
    """A ``kubegym serve`` process; its URL. It takes a free port, unless the arguments name one."""
    place = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    command = [sys.executable, "-m", "kubegym.cli.main", "serve", *arguments, *place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            found = _URL.search(process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def worker_entry(model: str, name: str = "arithmetic", **endpoints: Any) -> dict[str, Any]:
    """An environment with everything in the worker but what is given an address."""
    policy = {"baseUrl": f"{model}/v1", "model": "simulated", "kind": "server"}
    agent = "Service" if "agent" in endpoints else "Worker"
    resources = "Service" if endpoints else "Worker"
    return {
        "manifest": environment_manifest(name, agent, resources),
        "endpoints": {"agent": [], "resources": [], "models": {"policy": policy}, **endpoints},
    }


async def ended(process: asyncio.subprocess.Process) -> int:
    """The exit code of a pod, when it has one."""
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


async def rows_of(cluster: Cluster, prefix: str) -> list[dict[str, Any]]:
    """Every row of a finished run, each exactly once."""
    store = cluster.store(prefix)
    try:
        return await assert_exactly_once(store)
    finally:
        await store.close()
