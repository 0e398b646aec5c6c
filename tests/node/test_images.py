"""The images of the four roles: what a pod under the strictest rules can do with them."""

from __future__ import annotations

import json
import textwrap

import pytest

from kubegym import __version__
from testbed.images import ROLES
from testbed.kind import KindCluster
from testbed.kind_pods import pod, python, run

LOOK = textwrap.dedent("""
    import importlib.util, json, os, pathlib
    def refused(path):
        try:
            pathlib.Path(path).write_text("x")
        except OSError as error:
            return error.strerror
    print(json.dumps({
        "user": [os.getuid(), os.getgid()],
        "root": refused("/x"),
        "own": refused("/opt/kubegym/x"),
        "tmp": refused("/tmp/x"),
        "home": os.path.expanduser("~"),
        "modules": [name for name in %r if importlib.util.find_spec(name)],
        "left": [path for path in ("/etc/pip.conf", "/run/secrets/ca", "/wheel", "/requirements", "/source")
                 if os.path.exists(path)],
    }))
""")
MODULES = ("kubegym", "kubegym_operator", "kopf", "kubernetes", "xllamacpp", "uvicorn", "pyarrow", "pytest", "pip")
EXPECTED = {
    "model": {"kubegym", "kubegym_operator", "xllamacpp", "uvicorn"},
    "agent": {"kubegym", "kubegym_operator", "uvicorn", "pyarrow", "pip"},
    "resources": {"kubegym", "kubegym_operator", "uvicorn", "pyarrow", "pip"},
    "operator": {"kubegym", "kubegym_operator", "kopf", "kubernetes"},
}


@pytest.mark.parametrize("role", ROLES)
def test_an_image_runs_as_nobody_on_a_read_only_root(cluster: KindCluster, namespace: str, role: str) -> None:
    ended = python(cluster, namespace, role, cluster.images[role], LOOK % (MODULES,))
    assert ended.code == 0, ended.output
    seen = json.loads(ended.output)
    assert seen["user"] == [65532, 65532]
    assert seen["root"] == seen["own"] == "Read-only file system"
    assert seen["tmp"] is None
    assert seen["home"] == "/tmp"
    assert seen["left"] == []


@pytest.mark.parametrize("role", ROLES)
def test_an_image_has_what_its_role_needs_and_no_more(cluster: KindCluster, namespace: str, role: str) -> None:
    ended = python(cluster, namespace, role, cluster.images[role], LOOK % (MODULES,))
    assert ended.code == 0, ended.output
    assert set(json.loads(ended.output)["modules"]) == EXPECTED[role]


@pytest.mark.parametrize("role", ["model", "agent", "resources"])
def test_the_command_of_an_image_is_kubegym(cluster: KindCluster, namespace: str, role: str) -> None:
    ended = run(cluster, namespace, pod(role, cluster.images[role], args=["version"]))
    assert ended.code == 0, ended.output
    assert ended.output.strip().splitlines()[-1] == f"kubegym {__version__}"
