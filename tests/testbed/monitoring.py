"""What the chart brings for Prometheus and Grafana, and promtool, which reads it as Prometheus does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from testbed.build import CannotBuild, module_folder
from testbed.images_packages import require
from testbed.required import unavailable

FILES = Path(__file__).resolve().parents[2] / "charts" / "kubegym" / "files"
RULES = FILES / "rules.yaml"
_METRIC = re.compile(r"(?<![\w:$])(kubegym_\w+|vllm:\w+)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool, of Debian's package; the test is skipped (in CI failed) where it cannot be had."""
    try:
        require({"promtool": "prometheus"})
    except CannotBuild as error:
        unavailable(str(error))
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)


def prometheus_operator_crds() -> str:
    """The definitions of what the chart makes for the Prometheus operator, as that publishes them.

    Raises:
        testbed.build.CannotBuild: no Go, or the module could not be fetched.
    """
    folder = module_folder("prometheus-operator") / "example" / "prometheus-operator-crd"
    kinds = ("servicemonitors", "podmonitors", "prometheusrules")
    return "\n---\n".join((folder / f"monitoring.coreos.com_{kind}.yaml").read_text() for kind in kinds)


def dashboards() -> dict[str, dict[str, object]]:
    """Grafana's JSON by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of a dashboard, with where it stands."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:  # type: ignore[attr-defined]
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def alerts() -> Iterator[tuple[str, str]]:
    """Every expression of an alert rule, with its name."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def metrics_in(expression: str) -> set[str]:
    """Names of the time series that an expression reads."""
    return set(_METRIC.findall(_STRING.sub('""', expression)))
