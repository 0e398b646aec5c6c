"""Programming problems, judged by unit tests that run in the sandbox."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel

from kubegym import Environment, Model, Rollout, Row, Verdict
from kubegym.verify import programs
from kubegym.verify.headline import headline
from kubegym.verify.programs import Case, Report
from kubegym.verify.text import fenced, output_text

_CODES = {"wrong": -2, "time": -3, "error": -4, "memory": -4, "limit": -4}
"""NeMo Gym's numbers for why a test failed."""


class UnitTests(BaseModel):
    """Tests in LiveCodeBench's format: texts for stdin and stdout, or JSON for a function's arguments and value."""

    inputs: list[str]
    outputs: list[str]
    fn_name: str | None = None


class CodeGen(Environment):
    """A problem, and a Python program between the last two code fences as the answer; no tools."""

    version = "0.1.0"
    verifier_version = f"0.1.0+{programs.VERSION}"
    stateless_verify = True
    answer_key = "extracted_model_code"

    class Config(Model):
        """``unit_test_timeout_secs``: CPU time of each test. ``parity`` also takes programs that exit with an error."""

        parity: Literal["nemo-gym"] | None = None
        unit_test_timeout_secs: float = 10.0
        memory_bytes: int = 4 << 30

    class Task(Row):
        """A row. ``verifier_metadata`` has ``unit_tests`` (or them ``packed``) and may have ``difficulty``."""

        verifier_metadata: dict[str, Any]
        solution: str | None = None

        @property
        def cases(self) -> list[Case]:
            """The tests. Raises ValueError."""
            raw = self.verifier_metadata.get("unit_tests") or {}
            if "packed" in raw:
                raw = {**json.loads(zlib.decompress(base64.b64decode(raw["packed"]))), "fn_name": raw.get("fn_name")}
            tests = UnitTests.model_validate(raw)
            pairs = zip(tests.inputs, tests.outputs, strict=True)
            if not tests.fn_name:
                return [Case(given, expected) for given, expected in pairs]
            return [
                Case([json.loads(line) for line in given.split("\n")], json.loads(expected), tests.fn_name)
                for given, expected in pairs
            ]

        def model_post_init(self, _context: Any) -> None:
            """Refuse tests that cannot be read. Raises ValueError."""
            if not self.cases:
                raise ValueError("verifier_metadata.unit_tests is empty: every program would pass")

    async def verify(self, rollout: Rollout) -> Verdict:
        """1 if every test passes, else 0; the first failing test ends it."""
        text = output_text(rollout.output)
        code = fenced(text)
        if not code:
            return self._verdict(text, None, None)
        seconds = self.config.unit_test_timeout_secs
        limits = replace(
            programs.LIMITS, cpu_seconds=seconds, wall_seconds=3 * seconds, memory_bytes=self.config.memory_bytes
        )
        report = await programs.run_tests(
            self.sandbox, code, self.task.cases, limits=limits, any_exit=self.config.parity is not None
        )
        return self._verdict(text, code, report)

    def _verdict(self, text: str, code: str | None, report: Report | None) -> Verdict:
        fields: dict[str, Any] = {
            "extracted_model_output": text or None,
            "extracted_model_code": code,
            "difficulty": self.task.verifier_metadata.get("difficulty"),
        }
        if report is None:
            return Verdict(0.0, fields=fields)
        fields["result"] = [True if passed else _CODES[report.problem or "limit"] for passed in report.passed]
        fields["metadata"] = {"problem": report.problem, "detail": report.detail}
        metrics = {"unit_tests_time_taken": report.cpu_seconds, "tests_passed": report.share}
        return Verdict(float(report.all_passed), fields=fields, metrics=metrics)

    @classmethod
    def oracle(cls, task: Task) -> str:
        """The row's solution."""
        if task.solution is None:
            raise NotImplementedError("this row brings no solution")
        return f"```python\n{task.solution}\n```"

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """Programs that know the first test, end before they are judged, say that they passed, or look around."""
        first = task.cases[0]
        body = f"def {first.call}(*_):\n    return {first.expected!r}" if first.call else f"print({first.expected!r})"
        same = "class Same(str):\n    __eq__ = lambda *_: True\n    __hash__ = str.__hash__\n"
        always = f"{same}def {first.call or 'f'}(*_):\n    return Same('1')\nprint(Same('1'))"
        tricks = {
            "the first test's answer": body,
            "an early end": "import os\nos._exit(0)",
            "a claim": "print('all tests passed')\nraise SystemExit(0)",
            "equal to everything": always,
            "a look around": "import os\nprint(os.listdir('..'), os.listdir('/proc'))",
        }
        return {name: f"```python\n{code}\n```" for name, code in tricks.items()}

    @classmethod
    def get_key_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """The common headline numbers."""
        return headline(metrics, ("mean/tests_passed", "mean/input_tokens", "mean/output_tokens"))
