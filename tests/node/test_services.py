"""What the cluster has besides KubeGym: names, policies that hold, metrics, a store with conditional writes."""

from __future__ import annotations

import json
import textwrap

from testbed.k8s.api import Refused
from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_pods import SECRET, pod, run

REACH = textwrap.dedent("""
    import socket, sys, time
    host, port, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "open"
    # A policy takes a moment to come to the node: what counts is what it settles to.
    deadline = time.monotonic() + 240
    while True:
        try:
            socket.create_connection((host, port), 3).close()
            found = True
        except OSError as error:
            found = False
        if found == wanted or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print("open" if found else "closed")
""")
SERVE = ["python", "-m", "http.server", "8000", "--directory", "/tmp"]
POLICY = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
TO_DNS = {
    "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
}


def serve(cluster: KindCluster, namespace: str, name: str) -> None:
    """A web server and a Service that leads to it."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    server = pod(name, cluster.images["agent"], command=SERVE, labels={"app": name}, port=8000)
    cluster.apply([server, service], namespace=namespace)
    cluster.wait(f"pod/{name}", "Ready", namespace)


def reach(cluster: KindCluster, namespace: str, client: str, host: str, port: int, wanted: str) -> str:
    """What a client with the label ``app`` of its own name finds: ``open`` or ``closed``."""
    command = ["python", "-c", REACH, host, str(port), wanted]
    manifest = pod(client, cluster.images["agent"], command=command, labels={"app": client})
    return run(cluster, namespace, manifest).output.strip()


def test_a_service_is_found_by_its_name(cluster: KindCluster, namespace: str) -> None:
    serve(cluster, namespace, "web")
    assert reach(cluster, namespace, "one", "web", 80, "open") == "open"
    assert reach(cluster, namespace, "two", f"web.{namespace}.svc.cluster.local", 80, "open") == "open"


def test_ingress_is_closed_to_those_whom_no_policy_names(cluster: KindCluster, namespace: str) -> None:
    serve(cluster, namespace, "web")
    cluster.apply(
        {
            **POLICY,
            "metadata": {"name": "web"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": 8000}]}],
            },
        },
        namespace=namespace,
    )
    assert reach(cluster, namespace, "stranger", "web", 80, "closed") == "closed"
    assert reach(cluster, namespace, "friend", "web", 80, "open") == "open"


def test_egress_is_closed_to_what_no_policy_names(cluster: KindCluster, namespace: str) -> None:
    serve(cluster, namespace, "web")
    serve(cluster, namespace, "other")
    to_web = {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8000}]}
    cluster.apply(
        {
            **POLICY,
            "metadata": {"name": "caged"},
            "spec": {
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["caged", "caged-2"]}]},
                "policyTypes": ["Egress"],
                "egress": [to_web, TO_DNS],
            },
        },
        namespace=namespace,
    )
    assert reach(cluster, namespace, "caged", "other", 80, "closed") == "closed"
    assert reach(cluster, namespace, "caged-2", "web", 80, "open") == "open"
    assert reach(cluster, namespace, "free", "other", 80, "open") == "open"


def test_who_may_not_ask_may_answer(cluster: KindCluster, namespace: str) -> None:
    """A policy is about who begins: replies belong to the connection that they answer on."""
    serve(cluster, namespace, "web")
    cluster.apply(
        {
            **POLICY,
            "metadata": {"name": "answers"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
                "egress": [],
            },
        },
        namespace=namespace,
    )
    assert reach(cluster, namespace, "stranger", "web", 80, "closed") == "closed"
    assert reach(cluster, namespace, "friend", "web", 80, "open") == "open"


def test_metrics_of_pods_are_served(cluster: KindCluster) -> None:
    """``kubectl top`` and autoscalers read them."""

    memory: list[str] = []

    def seen() -> bool:
        try:
            found = cluster.api.request("GET", f"/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/pods")
        except Refused:  # while nobody serves them
            return False
        memory[:] = [
            container["usage"]["memory"]
            for each in found["items"]
            if each["metadata"]["name"].startswith("s3-")
            for container in each["containers"]
        ]
        return bool(memory)

    until(seen, "metrics-server has seen the S3 server's pod")
    assert int(memory[0].removesuffix("Ki")) > 0


STORE = textwrap.dedent("""
    import asyncio, json, sys, uuid
    from pathlib import Path
    from kubegym.storage import MountedCredentials, StoreOptions, open_store, probe_conditional_writes

    async def race(store, key, writes):
        ends = await asyncio.gather(*writes, return_exceptions=True)
        winners = [number for number, end in enumerate(ends) if isinstance(end, str)]
        others = {type(end).__name__ for end in ends if not isinstance(end, str)}
        return [len(winners), sorted(others), (await store.get(key)).data.decode() == f"writer {winners[0]}"]

    async def main(endpoint, folder):
        options = StoreOptions(endpoint=endpoint, credentials=MountedCredentials(Path(folder)))
        store = open_store(f"s3://kubegym/test/{uuid.uuid4()}/", options=options)
        await probe_conditional_writes(store)
        bodies = [f"writer {number}".encode() for number in range(20)]
        created = await race(store, "new", [store.create("new", body) for body in bodies])
        etag = await store.put("old", b"before")
        swapped = await race(store, "old", [store.swap("old", body, etag) for body in bodies])
        await store.close()
        print(json.dumps([created, swapped]))

    asyncio.run(main(*sys.argv[1:]))
""")


def test_of_twenty_writers_in_a_pod_one_wins(cluster: KindCluster) -> None:
    endpoint = f"http://s3.{NAMESPACE}.svc:9000"
    command = ["python", "-c", STORE, endpoint, SECRET]
    writers = pod("writers", cluster.images["agent"], command=command, secret="kubegym-output")
    ended = run(cluster, NAMESPACE, writers)
    cluster.api.delete("v1", "Pod", "writers", NAMESPACE)
    assert ended.code == 0, ended.output
    assert json.loads(ended.output.splitlines()[-1]) == [[1, ["Conflict"], True]] * 2
