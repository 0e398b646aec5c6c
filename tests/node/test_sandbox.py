"""Sandbox pods: what the escape suite finds there, how they are reached, and what a lost one is."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Iterator

import pytest

from testbed.escapes import ESCAPES
from testbed.images import ROOT
from testbed.k8s.cluster import KubectlFailed
from testbed.k8s.process import until
from testbed.kind import NAMESPACE, KindCluster
from testbed.kind_pods import pod
from testbed.kind_runs import API, applied, sample

BOXED = "arithmetic"
SUITE_SECONDS = 900.0  # on a loaded machine; two minutes otherwise
READY_SECONDS = 600.0
SUITE_FOLDER = "/opt/kubegym-escapes"


@pytest.fixture(scope="module")
def boxed(cluster: KindCluster) -> Iterator[None]:
    """An environment in whose resources pod ``self.sandbox`` is two pods of its own."""
    environment, _ = sample()
    environment["spec"].pop("models")  # nobody collects rollouts of it here
    environment["spec"]["resources"] |= {"placement": "Service", "sandbox": {"replicas": 2}}
    with applied(cluster, [environment]):
        ready(cluster)
        yield


def ready(cluster: KindCluster) -> None:
    """Wait until the environment serves, its sandbox pods too."""

    def is_ready() -> bool:
        status = (cluster.api.get(API, "GymEnvironment", BOXED, NAMESPACE) or {}).get("status") or {}
        return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))

    until(is_ready, f"the environment {BOXED} is ready", seconds=READY_SECONDS)


def in_resources(cluster: KindCluster, script: str, *arguments: str) -> str:
    """What a script prints that runs where the environment's code runs."""
    command = ["exec", f"deployment/{BOXED}-resources", "--", "python", "-c", textwrap.dedent(script), *arguments]
    return cluster.kubectl(*command, namespace=NAMESPACE)


RUN = """
    import asyncio, dataclasses, json, sys
    from kubegym.sandbox import Limits, process_sandbox
    from kubegym.sandbox.errors import SandboxError
    async def main(code):
        sandbox = process_sandbox()
        try:
            done = await sandbox.run(code, stdin="4", value="x", limits=Limits(wall_seconds=300))
            print(json.dumps({"kind": type(sandbox).__name__, "stdout": done.stdout, "value": done.value,
                              "stderr": done.stderr, "refused": done.refused, "exit_code": done.exit_code}))
        except SandboxError as error:
            print(json.dumps({"reason": error.reason, "retryable": error.retryable}))
        finally:
            await sandbox.close()
    asyncio.run(main(sys.argv[1]))
"""
SESSION = """
    import asyncio, json
    from kubegym.sandbox import process_sandbox
    async def main():
        sandbox = process_sandbox()
        async with sandbox.session(files={"data.txt": "seven"}) as session:
            await session.run("x = 1; word = open('data.txt').read()")
            done = await session.run("x += 1; print(word)", value="x")
        print(json.dumps([done.stdout, done.value]))
        await sandbox.close()
    asyncio.run(main())
"""


def test_code_runs_in_a_pod_of_its_own(cluster: KindCluster, boxed: None) -> None:
    done = json.loads(
        in_resources(cluster, RUN, "import os, numpy\nx = int(input()) + int(numpy.ones(3).sum())\nprint(x)")
    )
    assert done["kind"] == "PodSandbox"
    assert (done["stdout"], done["value"], done["exit_code"]) == ("7\n", 7, 0), done


def test_a_session_stays_in_its_pod(cluster: KindCluster, boxed: None) -> None:
    assert json.loads(in_resources(cluster, SESSION)) == ["seven\n", 2]


def test_without_the_token_nothing_runs(cluster: KindCluster, boxed: None) -> None:
    asked = """
        import os, urllib.request, urllib.error
        url = os.environ["KUBEGYM_SANDBOX_URL"] + "/run"
        request = urllib.request.Request(url, b"{}", {"authorization": "Bearer no"})
        try:
            print(urllib.request.urlopen(request, timeout=240).status)
        except urllib.error.HTTPError as error:
            print(error.code)
    """
    assert in_resources(cluster, asked).strip() == "401"


def test_the_pods_can_enforce_everything(cluster: KindCluster, boxed: None) -> None:
    """``kubegym sandbox check`` ends with 0: under RuntimeDefault, without root."""
    command = ["exec", f"deployment/{BOXED}-sandbox", "--", "kubegym", "sandbox", "check", "--json"]
    findings = {each["name"]: each for each in json.loads(cluster.kubectl(*command, namespace=NAMESPACE))["findings"]}
    assert [name for name, each in findings.items() if each["needed"] and not each["holds"]] == []
    assert findings["no token"]["holds"]
    assert findings["memory limit"]["holds"]
    assert findings["container's filter"]["holds"]


def test_nothing_outside_is_reached_from_the_pods(cluster: KindCluster, boxed: None) -> None:
    """Not even by what a program in it would be, had it broken every wall of the sandbox."""
    reach = """
        import socket, sys, time
        deadline = time.monotonic() + 240  # a policy takes a moment to come to the node
        found = True
        while found and time.monotonic() < deadline:
            try:
                socket.create_connection((sys.argv[1], 9000), 3).close()
                time.sleep(0.5)
            except OSError:
                found = False
        print("open" if found else "closed")
    """
    address = cluster.kubectl("get", "service/s3", "-o=jsonpath={.spec.clusterIP}", namespace=NAMESPACE)
    command = ["exec", f"deployment/{BOXED}-sandbox", "--", "python", "-c", textwrap.dedent(reach), address]
    assert cluster.kubectl(*command, namespace=NAMESPACE).strip() == "closed"


def test_a_lost_pod_is_retryable_and_no_answer(cluster: KindCluster, boxed: None) -> None:
    labels = f"kubegym.dev/gymenvironment-name={BOXED},app.kubernetes.io/component=sandbox"
    pods = [each["metadata"]["name"] for each in cluster.api.list("v1", "Pod", NAMESPACE, labels)]
    look = ["--", "python", "-c", "import glob; print(len(glob.glob('/scratch/**/started', recursive=True)))"]
    kill = ["delete", "pods", "-l", labels, "--grace-period=0", "--force"]
    lost = """
        import asyncio, json, sys
        from kubegym.sandbox import Limits, process_sandbox
        from kubegym.sandbox.errors import SandboxError
        async def main():
            sandbox = process_sandbox()
            print("started", flush=True)
            try:
                code = "import time; open('started', 'w'); time.sleep(3000)"
                done = await sandbox.run(code, limits=Limits(wall_seconds=3000))
                print(json.dumps({"done": done.stopped or done.exit_code}))
            except SandboxError as error:
                print(json.dumps({"reason": error.reason, "retryable": error.retryable}))
            await sandbox.close()
        asyncio.run(main())
    """
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(in_resources(cluster, lost)))
    asking.start()

    def running() -> bool:
        return any(int(cluster.kubectl("exec", name, *look, namespace=NAMESPACE)) for name in pods)

    until(running, "the program runs")
    cluster.kubectl(*kill, namespace=NAMESPACE)
    asking.join()
    assert json.loads(said[0].splitlines()[-1]) == {"reason": "SandboxLost", "retryable": True}
    ready(cluster)


def test_no_escape_in_a_pod(cluster: KindCluster, namespace: str) -> None:
    """The whole suite, as the pod's user, behind the pod's own walls."""
    folder = ROOT / "tests" / "testbed"
    code = {path.name: path.read_text() for path in sorted((folder / "escapes").glob("*.py"))}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "escapes"}, "data": code}, namespace=namespace
    )
    manifest = pod("escapes", cluster.images["resources"], command=["python", "-m", "testbed.escapes.run"])
    container = manifest["spec"]["containers"][0]
    container["env"] = [{"name": "PYTHONPATH", "value": SUITE_FOLDER}]
    container["resources"] = {"limits": {"memory": "2Gi", "ephemeral-storage": "2Gi"}}
    container["volumeMounts"].append({"name": "escapes", "mountPath": f"{SUITE_FOLDER}/testbed/escapes"})
    manifest["spec"]["volumes"].append({"name": "escapes", "configMap": {"name": "escapes"}})
    cluster.apply(manifest, namespace=namespace)

    def ended() -> bool:
        found = cluster.api.get("v1", "Pod", "escapes", namespace) or {}
        return found.get("status", {}).get("phase") in ("Succeeded", "Failed")

    until(ended, "the suite has ended", seconds=SUITE_SECONDS)
    try:
        lines = cluster.kubectl("logs", "escapes", namespace=namespace).splitlines()
    except KubectlFailed as error:
        pytest.fail(f"no words of the suite: {error}")
    verdicts = [json.loads(line) for line in lines if line.startswith("{")]
    assert [each for each in verdicts if not each["contained"] or each["damage"]] == []
    assert {each["name"] for each in verdicts} == {escape.name for escape in ESCAPES} | {"afterwards"}, lines[-20:]
