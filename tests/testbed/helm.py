"""The real helm, and the project's chart."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.build import binary

CHART = Path(__file__).resolve().parents[2] / "charts" / "kubegym"
RELEASE, NAMESPACE = "kubegym", "kubegym-system"
_SECONDS = 900.0  # a bound against hanging, longer than it is told to wait
_SOURCE = re.compile(r"^# Source: kubegym/(\S+)$", re.MULTILINE)

Object = dict[str, Any]


class HelmFailed(Exception):
    """Helm did not exit with 0; the message is what it said."""


class Helm:
    """Runs helm.

    Args:
        scratch: a folder for its caches and for values.
        kubeconfig: of whom it acts as; None where it needs no cluster.

    Raises:
        testbed.build.CannotBuild: there is no helm and none can be built.
    """

    def __init__(self, scratch: Path, kubeconfig: Path | None = None) -> None:
        self._program = binary("helm")
        self._scratch = scratch
        self._kubeconfig = kubeconfig

    def run(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """What helm prints.

        Args:
            arguments: of helm.
            values: of the chart, as a file would set them.

        Raises:
            HelmFailed: it did not exit with 0.
        """
        command: list[str | Path] = [self._program, *arguments]
        if values is not None:
            command += ["--values", "-"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._scratch)}
        if self._kubeconfig is not None:
            environment["KUBECONFIG"] = str(self._kubeconfig)
        done = subprocess.run(
            command,
            input=yaml.safe_dump(dict(values)) if values is not None else None,
            stdin=subprocess.DEVNULL if values is None else None,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def render(
        self, values: Mapping[str, Any] | None = None, *, served: Sequence[str] = (), chart: Path = CHART
    ) -> dict[str, list[Object]]:
        """The chart's objects by the template that makes them.

        Args:
            values: of the chart.
            served: API versions that the cluster serves besides Kubernetes' own.
            chart: where it lies.
        """
        flags = [f"--api-versions={version}" for version in served]
        text = self.run("template", RELEASE, chart, f"--namespace={NAMESPACE}", *flags, values=values or {})
        found: dict[str, list[Object]] = {}
        for document in re.split(r"^---$", text, flags=re.MULTILINE):
            source = _SOURCE.search(document)
            obj = yaml.safe_load(document)
            if source is not None and obj:
                found.setdefault(source[1], []).append(obj)
        return found
