"""Questions whose answers have to be looked up: search and browse, over an offline corpus or a search API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from kubegym import Environment, Rollout, Row, ToolError, Verdict, tool
from kubegym.search.sources import Pages, Sources, open_pages
from kubegym.verify.text import boxed, normalised, peeled


class WebSearch(Environment):
    """A question with a short answer, which stands in pages that the policy has to find."""

    version = "0.1.0"
    stateless_verify = True
    answer_key = "parsed_option"

    class Config(Sources):
        """Settings."""

        results: int = 10
        page_words: int = 10_000
        parity: Literal["nemo-gym"] | None = None

    class Task(Row):
        """A row; ``evidence`` has the pages that lead to the answer, for the oracle."""

        expected_answer: str
        evidence: tuple[str, ...] = ()

        def model_post_init(self, _context: Any) -> None:
            """Refuse a row that no answer could be right for. Raises ValueError."""
            if not normalised(self.expected_answer):
                raise ValueError("expected_answer is empty: no answer could be right")

    @classmethod
    async def setup(cls, config: Config) -> Pages:
        """Index the corpus, or get ready to ask the API."""
        return await open_pages(config, __file__)

    @classmethod
    def teardown(cls, shared: Pages) -> None:
        """Free them."""
        shared.close()

    @tool(parallel=True)
    async def search(self, query: str) -> dict[str, Any]:
        """Search for pages.

        Args:
            query: words to look for.
        """
        if not query.strip():
            raise ToolError("the query is empty")
        return {"search_results": await self.shared.search(query, self.config.results)}

    @tool(parallel=True)
    async def browse(self, url: str) -> dict[str, str]:
        """Read a page.

        Args:
            url: the page's address, such as one that search found.
        """
        words = (await self.shared.page(url)).split(" ")
        shown = words[: self.config.page_words]
        cut = f" [cut: {len(words)} words, only the first {len(shown)} are shown]" if len(words) > len(shown) else ""
        return {"page_content": " ".join(shown) + cut}

    def verify(self, rollout: Rollout) -> Verdict:
        r"""1 if the last message has the expected answer in ``\boxed{}``, and no other one, else 0."""
        if self.config.parity:
            right = (answer := _first_box(_last_item_text(rollout))) == self.task.expected_answer
        else:
            answers = list(_boxes(rollout.final_text))
            answer = answers[0] if answers else None
            right = {normalised(one) for one in answers} == {normalised(self.task.expected_answer)}
        fields = {"parsed_option": answer}
        return Verdict(float(right), fields=fields, metrics={"num_tool_calls": len(rollout.tool_calls)})

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Search for each page that leads to the answer, read it, and answer."""
        steps: list[Any] = []
        for url in task.evidence:
            name = url.rsplit("/", 1)[-1].replace("-", " ")
            steps += [{"name": "search", "arguments": {"query": name}}, {"name": "browse", "arguments": {"url": url}}]
        return [*steps, f"The pages say so: \\boxed{{{task.expected_answer}}}."]

    @classmethod
    def cheats(cls, task: Task) -> dict[str, str]:
        """The right answer among others."""
        return {
            "two answers": f"\\boxed{{Nowhere}} or \\boxed{{{task.expected_answer}}}",
            "the right one first": f"\\boxed{{{task.expected_answer}}} or \\boxed{{Nowhere}}",
            "several in one box": f"\\boxed{{Nowhere, {task.expected_answer}}}",
        }


def _last_item_text(rollout: Rollout) -> str:
    """The text of the last output item where that is a message."""
    return rollout.final_text if rollout.output and rollout.output[-1].get("role") == "assistant" else ""


def _first_box(text: str) -> str | None:
    """What stands in the first box of a line in which one closes, with the first brace that does."""
    for line in text.split("\n"):
        inside, closing, _ = line.partition("\\boxed{")[2].partition("}")
        if closing:
            return inside
    return None


def _boxes(text: str) -> Iterator[str]:
    """What stands in each box, the last one first."""
    while (answer := boxed(text)) is not None:
        yield peeled(answer)
        text = text[: text.rfind("\\boxed{")]
