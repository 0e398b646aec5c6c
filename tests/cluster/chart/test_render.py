"""What the chart renders: each file of ``cases`` gives values and what has to come out.

``objects`` are parts of manifests: all that they say has to be in the rendered object of that kind and name,
elements of lists in any order. ``renders`` lists all objects, ``lacks`` some that must not be there, ``refuses`` is
a pattern of helm's complaint. ``served`` are API versions that the cluster has besides Kubernetes' own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubegym_operator.settings import OperatorSettings
from testbed.helm import CHART, NAMESPACE, Helm, HelmFailed, Object

CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))


def load(path: Path) -> Object:
    case: Object = yaml.safe_load(path.read_text())
    unknown = case.keys() - {"description", "values", "served", "objects", "renders", "lacks", "refuses"}
    assert not unknown, f"{path.name}: {unknown}"
    return case


def name(obj: Object) -> str:
    """``Kind/name``, with the namespace where it is not the release's."""
    namespace = obj["metadata"].get("namespace", NAMESPACE)
    return f"{obj['kind']}/{obj['metadata']['name']}" + ("" if namespace == NAMESPACE else f" in {namespace}")


def missing(expected: Any, actual: Any, path: str = "") -> list[str]:
    """What ``expected`` says and ``actual`` does not; empty where all of it is there."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [
            line
            for key, value in expected.items()
            for line in (missing(value, actual[key], f"{path}.{key}") if key in actual else [f"{path}.{key} is absent"])
        ]
    if isinstance(expected, list) and isinstance(actual, list):
        return [
            f"{path} has no {value!r}"
            for value in expected
            if not any(missing(value, element) == [] for element in actual)
        ]
    return [] if expected == actual else [f"{path} is {actual!r}, not {expected!r}"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(helm: Helm, path: Path) -> None:
    case = load(path)
    if "refuses" in case:
        with pytest.raises(HelmFailed, match=case["refuses"]):
            helm.render(case.get("values"))
        return
    rendered = helm.render(case.get("values"), served=case.get("served", ()))
    objects = {name(obj): obj for found in rendered.values() for obj in found}
    if "renders" in case:
        assert sorted(objects) == sorted(case["renders"])
    assert [lacked for lacked in case.get("lacks", ()) if lacked in objects] == []
    for expected in case.get("objects", ()):
        assert name(expected) in objects
        assert missing(expected, objects[name(expected)]) == []


def test_every_template_is_rendered_by_a_case(helm: Helm) -> None:
    covered: set[str] = set()
    for path in CASES:
        case = load(path)
        if "refuses" not in case and case.get("objects"):
            covered |= helm.render(case.get("values"), served=case.get("served", ())).keys()
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert templates - covered == set()


@pytest.mark.parametrize("path", [path for path in CASES if "refuses" not in path.stem], ids=lambda path: path.stem)
def test_the_operator_understands_its_settings(helm: Helm, path: Path) -> None:
    case = load(path)
    (deployment,) = helm.render(case.get("values"), served=case.get("served", ()))["templates/deployment.yaml"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value", "from the pod") for one in container["env"]}
    prefix = "KUBEGYM_OPERATOR_"
    named = {name.removeprefix(prefix).lower() for name in told if name.startswith(prefix)}
    assert named - OperatorSettings.model_fields.keys() == set()
    assert {"images", "lease_name", "listen", "dns"} <= named

    code = "from kubegym_operator.settings import OperatorSettings; print(OperatorSettings().model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["lease_name"] == deployment["metadata"]["name"]
    assert read["pod_namespace"] == "from the pod"


def test_lint_is_content(helm: Helm) -> None:
    report = helm.run("lint", "--strict", CHART)
    assert re.search(r"1 chart\(s\) linted, 0 chart\(s\) failed", report)


def test_no_object_takes_another_namespace_by_chance(helm: Helm) -> None:
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for found in helm.render({"operator": {"replicas": 2}}, served=["monitoring.coreos.com/v1"]).values():
        for obj in found:
            assert (obj["metadata"].get("namespace") == NAMESPACE) is (obj["kind"] not in cluster_wide), name(obj)
