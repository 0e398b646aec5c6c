"""The real operator as a process beside a test."""

from __future__ import annotations

import itertools
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.k8s.process import START_SECONDS, Ended, Program, until

_numbers = itertools.count(1)
_LISTENS = re.compile(r"probes and metrics on \('127\.0\.0\.1', (\d+)\)")
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN)$")


class OperatorProcess:
    """``python -m kubegym_operator`` on a free port of 127.0.0.1.

    Args:
        kubeconfig: who it is.
        folder: for its log.
        environment: further environment variables, by their whole names.
        settings: of ``OperatorSettings``, by name; what is no text goes as JSON.

    Attributes:
        name: of its pod, if it had one.
    """

    def __init__(
        self, kubeconfig: Path, folder: Path, *, environment: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        told = {"kubeconfig": str(kubeconfig), "listen": "127.0.0.1:0", **settings}
        words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
        variables = [f"KUBEGYM_OPERATOR_{name.upper()}={value}" for name, value in words.items()]
        variables += [f"{name}={value}" for name, value in (environment or {}).items()]
        self.name = f"operator-{next(_numbers)}"
        command = ["/usr/bin/env", f"POD_NAME={self.name}", *variables, sys.executable, "-m", "kubegym_operator"]
        self._program = Program(self.name, command, folder)
        self._read = 0

    def start(self) -> OperatorProcess:
        """Start it and wait until it answers its probes."""
        self._read = len(self.log)
        self._program.start()
        until(lambda: _LISTENS.search(self.fresh_log) is not None, "the operator listens", programs=[self._program])
        return self

    @property
    def log(self) -> str:
        """Everything that it wrote, in all of its lives."""
        return self._program.log.read_text(errors="replace") if self._program.log.exists() else ""

    @property
    def fresh_log(self) -> str:
        """What it wrote since it was started last."""
        return self.log[self._read :]

    @property
    def pid(self) -> int:
        return self._program.pid

    def get(self, path: str) -> tuple[int, bytes]:
        """An answer of its endpoint."""
        found = _LISTENS.search(self.fresh_log)
        assert found is not None, "it does not listen"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=START_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def health(self) -> dict[str, Any]:
        """What the liveness probe tells."""
        body: dict[str, Any] = json.loads(self.get("/healthz")[1])
        return body

    def metric(self, family: str, /, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            sample = _SAMPLE.match(line)
            if sample and sample[1] == family:
                present = dict(re.findall(r'([a-z_]+)="([^"]*)"', sample[2] or ""))
                if all(present.get(key) == value for key, value in labels.items()):
                    total += float(sample[3])
        return total

    def await_leading(self) -> OperatorProcess:
        """Wait until it leads and knows the cluster."""
        until(
            lambda: self.get("/readyz")[0] == 200 and self.health()["leading"] and "knows" in self.fresh_log,
            "the operator leads",
            programs=[self._program],
        )
        return self

    @property
    def running(self) -> bool:
        try:
            self._program.check()
        except Ended:
            return False
        return True

    def kill(self) -> None:
        """As a crash."""
        self._program.kill()

    def terminate(self) -> int:
        """As Kubernetes does, but that it may take its time; its exit code."""
        return self._program.terminate()

    def pause(self) -> None:
        """Let it hang."""
        self._program.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._program.resume()
