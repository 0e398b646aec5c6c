"""Multiple-choice questions, graded by the letter in the answer."""

from __future__ import annotations

import re
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, Verdict

from .grading import options_of, read_answer

Mode = Literal["strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon"]


class MultipleChoice(Environment):
    """A question with lettered options; no tools, one answer."""

    version = "0.1.0"
    stateless_verify = True
    answer_key = "extracted_answer"  # what majority@k votes on, and no_answer counts

    class Config(Model):
        """Settings: a ``grading_mode`` here wins over the rows'."""

        grading_mode: Mode | Literal["lenient_answer_colon_md"] | None = None

    class Task(Row):
        """A row. ``template_metadata`` may have ``output_regex`` and ``answer_prefix``; ``metadata`` is not read."""

        options: list[dict[str, str | None]] | None = None
        expected_answer: str
        grading_mode: Mode = "strict_single_letter_boxed"
        template_metadata: dict[str, Any] | None = None

        def model_post_init(self, _context: Any) -> None:
            """Check what grading would stumble over. Raises ValueError."""
            if not self.expected_answer.strip():
                raise ValueError("expected_answer is empty: no answer could be right")
            for pattern in self.output_regex:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"template_metadata.output_regex {pattern!r} does not compile: {error}") from error

        @property
        def output_regex(self) -> list[str]:
            """The row's own expressions, in the order in which they are tried. Raises ValueError for other values."""
            patterns = (self.template_metadata or {}).get("output_regex") or []
            patterns = [patterns] if isinstance(patterns, str) else patterns
            if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
                raise ValueError("template_metadata.output_regex must be a string or a list of strings")
            return patterns

        @property
        def gold(self) -> str:
            """The right letter, upper-case."""
            return self.expected_answer.strip().upper()

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the letter read from all output text is the expected one, else 0."""
        task = self.task
        letter = read_answer(
            _output_text(rollout),
            options_of(task.options),
            self.config.grading_mode or task.grading_mode,
            task.output_regex,
            (task.template_metadata or {}).get("answer_prefix") or "",
        )
        fields = {"expected_answer": task.gold, "extracted_answer": letter}
        return Verdict(float(letter == task.gold), fields=fields)

    @classmethod
    def oracle(cls, task: Task) -> str:
        """The right letter, in a form that every mode reads."""
        return f"Answer: {task.gold}\n\\boxed{{{task.gold}}}"

    @classmethod
    def get_key_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """Mean reward, pass@1, and the averaged, the no-answer and the majority numbers at the highest k."""
        return {
            **{name: metrics[name] for name in ("mean/reward", "pass@1/accuracy") if name in metrics},
            **_at_highest_k(metrics, r"pass@1\[avg-of-(\d+)\]/(?:accuracy|no_answer)"),
            **_at_highest_k(metrics, r"pass@(\d+)/no_answer"),
            **_at_highest_k(metrics, r"majority@(\d+)/accuracy"),
        }


def _at_highest_k(metrics: dict[str, Any], pattern: str) -> dict[str, Any]:
    """The metrics of a pattern whose one group, k, is the highest."""
    matches = [match for match in (re.fullmatch(pattern, name) for name in metrics) if match]
    highest = max((int(match[1]) for match in matches), default=0)
    return {match[0]: metrics[match[0]] for match in matches if int(match[1]) == highest}


def _output_text(rollout: Rollout) -> str:
    """Every ``output_text`` part, joined without anything between them (the contract's graded text)."""
    parts: list[str] = []
    for item in rollout.output:
        if item.get("type", "message") == "message" and item.get("role") == "assistant":
            content = item.get("content") or ()
            parts += [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    return "".join(parts)
