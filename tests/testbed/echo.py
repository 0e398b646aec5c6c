"""A small environment as a user would write it: code, manifest, rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

APP = '''
"""Says back what it hears."""

from kubegym import Environment, Model, Rollout, Row, Verdict


class Echo(Environment):
    """The answer has to be the row's word."""

    version = "1"

    class Config(Model):
        bonus: float = 0.0

    class Task(Row):
        word: str

    def verify(self, rollout: Rollout) -> Verdict:
        right = rollout.final_text == self.task.word
        return Verdict(reward=float(right) + self.config.bonus, fields={"said": rollout.final_text})
'''

MANIFEST = """
apiVersion: kubegym.dev/v1alpha1
kind: GymEnvironment
metadata: {name: echo}
spec:
  models:
    policy:
      server: {engine: simulated}
  resources:
    config: {bonus: 1.0}
  agent: {maxSteps: 3}
  rolloutTimeoutSeconds: 60
---
apiVersion: kubegym.dev/v1alpha1
kind: RolloutJob
metadata: {name: echo-sample}
spec:
  environments:
    - name: echo
      environmentRef: {name: echo}
      dataset: {bundled: {}, limit: 3}
  rolloutsPerTask: 2
  concurrency: 5
  onTruncated: Skip
  sampling: {temperature: "0.5"}
  failurePolicy: {maxRolloutAttempts: 2, maxFailedRolloutFraction: "0.5"}
  output: {uri: OUTPUT, flush: {seconds: 3}}
"""


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"responses_create_params": {"input": f"say word{n}"}, "word": f"word{n}"} for n in range(first, first + count)
    ]


def write_rows(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return path
