"""Open questions, whose answers a judge model compares with the expected ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kubegym import Environment, Model, Rollout, Row, Verdict
from kubegym.verify import equivalence
from kubegym.verify.headline import headline
from kubegym.verify.judge import Judge, Opinion
from kubegym.verify.text import last_match, last_text, normalised


class Equivalence(Environment):
    """A question with one expected answer; no tools. The judge is the model of the role ``judge``."""

    version = "0.1.0"
    stateless_verify = True

    class Config(Model):
        """NeMo Gym's settings by their names; what is None depends on ``parity``."""

        parity: Literal["nemo-gym"] | None = None
        judge_responses_create_params: dict[str, Any] = Field(default={"temperature": 0.0})
        judge_endpoint_max_concurrency: int = 64
        judge_system_message: str | None = None
        judge_prompt_template_fpath: str | None = None
        judge_equal_label: str = equivalence.EQUAL
        judge_not_equal_label: str = equivalence.DIFFERENT
        question_extract_regex: str | None = None
        response_extract_regex: str | None = None
        msg_extraction_failure: str = "[NO VALID ANSWER EXTRACTED]"
        check_twice_swap: bool | None = None
        reward_if_swap_fails: float = 0.0
        use_per_record_regex: bool = True
        extraction_length_threshold: int | None = 120
        check_full_generation_on_fail: bool = True
        reward_if_full_generation_succeeds: float = 0.5

    class Task(Row):
        """A row. ``metadata.expected_answer`` stands in for ``expected_answer``."""

        expected_answer: str | None = None
        metadata: dict[str, Any] | None = None
        template_metadata: dict[str, Any] | None = None

        @property
        def gold(self) -> str:
            """The expected answer; empty for none."""
            told = self.expected_answer or (self.metadata or {}).get("expected_answer")
            return "" if told is None else str(told)

        def model_post_init(self, _context: Any) -> None:
            """Check what judging would stumble over. Raises ValueError."""
            if not self.gold:
                raise ValueError("expected_answer is empty: there is nothing to compare with")

    @classmethod
    def setup(cls, config: Config) -> Judge:
        """The judge's question, and the opinions that all rollouts share."""
        file = config.judge_prompt_template_fpath
        return Judge(
            Path(__file__).with_name(file).read_text().strip() if file else equivalence.PROMPT,
            (config.judge_equal_label, config.judge_not_equal_label),
            system=config.judge_system_message,
            sampling=config.judge_responses_create_params,
            concurrency=config.judge_endpoint_max_concurrency,
            guard=config.parity is None,
        )

    async def verify(self, rollout: Rollout) -> Verdict:
        """1 if the judge finds the answers equal in both orders; part of it where only the whole text holds it."""
        config, lenient = self.config, self.config.parity is not None
        answer = last_text(rollout.output)
        if not answer and not lenient:
            return self._verdict(0.0, [])
        per_row = (self.task.template_metadata or {}).get("output_regex") if config.use_per_record_regex else None
        threshold = config.extraction_length_threshold
        too_long = bool(per_row) and threshold is not None and len(self.task.gold) > threshold
        pattern = None if too_long else per_row or config.response_extract_regex
        extracted = _extract(pattern, answer) or config.msg_extraction_failure
        same, first = await self._ask(rollout, self.task.gold, extracted)
        if same and not too_long and (not lenient if config.check_twice_swap is None else config.check_twice_swap):
            same, second = await self._ask(rollout, extracted, self.task.gold)
            return self._verdict(1.0 if same else config.reward_if_swap_fails, [first, second])
        if not same and not too_long and per_row and config.check_full_generation_on_fail:
            same, second = await self._ask(rollout, self.task.gold, answer or config.msg_extraction_failure)
            return self._verdict(config.reward_if_full_generation_succeeds * same, [first, second])
        return self._verdict(float(same), [first])

    async def _ask(self, rollout: Rollout, first: str, second: str) -> tuple[bool, Opinion]:
        asked = [item for item in rollout.input if item.get("role") == "user"]
        question = _extract(self.config.question_extract_regex, last_text(asked, "user"))
        lenient = self.config.parity is not None
        return await equivalence.equal(self.shared, self.models.judge, question, first, second, lenient=lenient)

    def _verdict(self, reward: float, opinions: list[Opinion]) -> Verdict:
        evaluations = [opinion.to_dict() for opinion in opinions]
        return Verdict(reward, fields={"expected_answer": self.task.gold, "judge_evaluations": evaluations})

    @classmethod
    def oracle(cls, task: Task) -> str:
        """The expected answer."""
        return task.gold

    @classmethod
    def stand_in(cls, role: str, task: Task, messages: Sequence[dict[str, Any]]) -> str:
        """A judge that quotes what it compares, and finds texts equal that differ in form alone."""
        first, second = equivalence.between_fences(messages[-1]["content"])
        label = equivalence.EQUAL if normalised(first) == normalised(second) else equivalence.DIFFERENT
        return f"A says: {first}\nB says: {second}\n{label}"

    @classmethod
    def get_key_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """The common headline numbers."""
        return headline(metrics)


def _extract(pattern: str | None, text: str) -> str:
    """What a pattern finds last; the whole text where there is no pattern, no match, or the pattern is none."""
    try:
        return (last_match(pattern, text) if pattern else None) or text
    except re.error:
        return text
