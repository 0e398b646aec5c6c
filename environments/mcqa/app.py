"""Multiple-choice questions, graded by the letter in the answer."""

from __future__ import annotations

import re
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, Verdict
from kubegym.verify.choice import options_of, read_answer
from kubegym.verify.headline import headline
from kubegym.verify.text import output_text

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
            output_text(rollout.output),
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
        return headline(metrics)
