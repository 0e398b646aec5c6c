"""What a run has left in a kind cluster's store, read from this machine through ``kubectl port-forward``."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import kubegym
from kubegym.local.results import Results
from kubegym.storage import StoreOptions, open_store
from testbed.build import binary
from testbed.k8s.cluster import Cluster

SECRET = "kubegym-output"
_FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ")


def results(cluster: Cluster, namespace: str, uri: str, *, samples: bool = False) -> Results:
    """The finished run at ``uri``, in the store of ``namespace``; its samples only where they are asked for."""
    with _store_options(cluster, namespace) as options:
        found = kubegym.load(uri, options=options)
        if samples:
            assert found.samples.num_rows, "the run kept none"  # read while the store can be reached
        return found


def remove(cluster: Cluster, namespace: str, uri: str) -> None:
    """Delete everything below ``uri``."""

    async def delete(options: StoreOptions) -> None:
        store = open_store(uri, options=options)
        for key in [key async for key in store.list()]:
            await store.delete(key)
        await store.close()

    with _store_options(cluster, namespace) as options:
        asyncio.run(delete(options))


@contextmanager
def _store_options(cluster: Cluster, namespace: str) -> Iterator[StoreOptions]:
    secret = cluster.api.get("v1", "Secret", SECRET, namespace)
    assert secret is not None, f"no Secret {SECRET} in {namespace}"
    credentials = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    with _forwarded(cluster, namespace, "service/s3", 9000) as port:
        yield StoreOptions(endpoint=f"http://127.0.0.1:{port}", credentials=credentials)


@contextmanager
def _forwarded(cluster: Cluster, namespace: str, resource: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to ``port`` of a Service's pod."""
    command = [str(binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    process = subprocess.Popen(
        [*command, "port-forward", resource, f":{port}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = _FORWARDING.search(process.stdout.readline())
        assert said is not None, f"kubectl port-forward {resource} did not start"
        yield int(said.group(1))
    finally:
        process.terminate()
        process.communicate()
