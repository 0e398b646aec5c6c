"""Mathematics: answers compared by math-verify, and by a judge model where that finds them different."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from kubegym import Environment, Model, Rollout, Row, Verdict
from kubegym.verify import equivalence, symbolic
from kubegym.verify.headline import headline
from kubegym.verify.judge import Judge, Opinion
from kubegym.verify.symbolic import Comparison
from kubegym.verify.text import boxed, normalised, output_text

LONGEST = 400
"""Characters of an answer; what is longer argues, or explains, and is none."""

_OPERATION = re.compile(r".[-+*^]|\\cdot|\\times|\\sqrt")


class MathWithJudge(Environment):
    r"""A problem with one expected answer, which is given in ``\boxed{}``; no tools."""

    version = "0.1.0"
    verifier_version = f"0.1.0+{symbolic.VERSION}"
    stateless_verify = True
    answer_key = "extracted_answer"

    class Config(Model):
        """NeMo Gym's settings by their names."""

        parity: Literal["nemo-gym"] | None = None
        should_use_judge: bool = True
        judge_responses_create_params: dict[str, Any] = Field(default={"temperature": 0.0})
        library_verifier_timeout_seconds: float = symbolic.CPU_SECONDS

    class Task(Row):
        """A row."""

        question: str
        expected_answer: str

        def model_post_init(self, _context: Any) -> None:
            """Refuse a row whose answer is empty. Raises ValueError."""
            if not self.expected_answer.strip():
                raise ValueError("expected_answer is empty: no answer could be right")

    @classmethod
    def setup(cls, config: Config) -> Judge:
        """Look for math-verify, and make the judge's question. Raises InvalidSpec."""
        symbolic.require()
        labels = (equivalence.EQUAL, equivalence.DIFFERENT)
        guard = config.parity is None
        return Judge(equivalence.PROMPT, labels, sampling=config.judge_responses_create_params, guard=guard)

    async def verify(self, rollout: Rollout) -> Verdict:
        """1 if the library finds the answers equal, or else the judge does in both orders."""
        text = output_text(rollout.output)
        if self.config.parity is not None:
            library = await self._compare_leniently(text)
            return await self._judged(library, library.extracted or text)
        answer = boxed(text)
        if not answer or len(answer) > LONGEST or restates(answer, self.task.question, self.task.expected_answer):
            return self._verdict(Comparison(False, None), 0.0, None)
        seconds = self.config.library_verifier_timeout_seconds
        library = await symbolic.compare(self.task.expected_answer, f"\\boxed{{{answer}}}", cpu_seconds=seconds)
        return await self._judged(library, answer)

    async def _compare_leniently(self, text: str) -> Comparison:
        """NeMo Gym's way: whatever looks like an answer, and trouble of the library's is a wrong one."""
        try:
            seconds = self.config.library_verifier_timeout_seconds
            return await symbolic.compare(self.task.expected_answer, text, cpu_seconds=seconds)
        except symbolic.TROUBLE:
            return Comparison(False, None, stopped=True)

    async def _judged(self, library: Comparison, answer: str) -> Verdict:
        if library.equal or not self.config.should_use_judge:
            return self._verdict(library, float(library.equal), None)
        same, opinions = await equivalence.equal_both_ways(
            *(self.shared, self.models.judge, self.task.question, self.task.expected_answer, answer),
            lenient=self.config.parity is not None,
        )
        return self._verdict(library, float(same), opinions)

    def _verdict(self, library: Comparison, reward: float, opinions: list[Opinion] | None) -> Verdict:
        fields: dict[str, Any] = {
            "expected_answer": self.task.expected_answer,
            "extracted_answer": library.extracted,
            "library_reward": float(library.equal),
            "library_stopped": library.stopped,
            "judge_evaluations": None if opinions is None else [opinion.to_dict() for opinion in opinions],
        }
        return Verdict(reward, fields=fields, metrics={"symbolic_accuracy": library.equal, "judge_accuracy": reward})

    @classmethod
    def oracle(cls, task: Task) -> str:
        """The expected answer in its box."""
        return f"\\boxed{{{task.expected_answer}}}"

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """Many answers at once, and more than a library takes."""
        guesses = ", ".join(map(str, range(-20, 121)))
        return {
            "all small numbers": f"\\boxed{{{guesses}}}",
            "one box each": " ".join(f"\\boxed{{{guess}}}" for guess in range(-20, 121)),
            "the question in a box": f"\\boxed{{{task.question}}}",
            "its last formula": f"\\boxed{{{task.question.split('$')[-2]}}}",
        }

    @classmethod
    def stand_in(cls, role: str, task: Task, messages: Sequence[dict[str, Any]]) -> str:
        """A judge that quotes what it compares, and finds texts equal that differ in form alone."""
        first, second = equivalence.between_fences(messages[-1]["content"])
        label = equivalence.EQUAL if normalised(first) == normalised(second) else equivalence.DIFFERENT
        return f"A says: {first}\nB says: {second}\n{label}"

    @classmethod
    def get_key_metrics(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """The common headline numbers, and who found the answers right."""
        return headline(metrics, ("mean/symbolic_accuracy", "mean/judge_accuracy"))


def restates(answer: str, question: str, expected: str) -> bool:
    """Whether an answer is a calculation that the question asks for, word for word: equal, and no answer."""
    given, asked, right = ("".join(text.replace("$", "").split()) for text in (answer, question, expected))
    return given in asked and given != right and _OPERATION.search(given) is not None
