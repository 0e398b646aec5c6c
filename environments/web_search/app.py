"""Questions whose answers lie in pages that have to be found: search, browse, put two and two together."""

from __future__ import annotations

import re
from typing import Any, Literal

from kubegym import Environment, Model, Rollout, Row, ToolError, Verdict, read_file, tool

from .api import Api, ApiConfig
from .index import Index, Page


class WebSearch(Environment):
    """Over an offline corpus with a full-text index, or over a search API and the web."""

    version = "0.1.0"
    answer_key = "extracted_answer"

    class Config(Model):
        """Where to search: ``corpus`` is JSONL of pages (a path or URI); ``api`` goes before it."""

        corpus: str = "data/corpus.jsonl"
        api: ApiConfig | None = None
        results: int = 5
        max_words: int = 10_000
        parity: Literal["nemo-gym"] | None = None

    class Task(Row):
        """A row."""

        question: str
        expected_answer: str

        def model_post_init(self, _context: Any) -> None:
            """Refuse a row that nothing could answer. Raises ValueError."""
            if not self.expected_answer.strip():
                raise ValueError("expected_answer is empty")

    @classmethod
    async def setup(cls, config: Config) -> Index | Api:
        """The index of the corpus, or the API."""
        return Api(config.api) if config.api is not None else Index(await read_file(config.corpus, __file__))

    @classmethod
    def teardown(cls, shared: Index | Api) -> None:
        """Close the index."""
        shared.close()

    def seed(self) -> None:
        """Nothing is found yet."""
        self.found: set[str] = set()

    @tool
    async def search(self, query: str) -> list[dict[str, str]] | str:
        """Search for pages.

        Args:
            query: Words to look for.
        """
        pages: list[Page] = await self.shared.search(query[:400], self.config.results)
        self.found.update(page.url for page in pages)
        return [{"title": page.title, "url": page.url, "snippet": page.text} for page in pages] or "nothing was found"

    @tool
    async def browse(self, url: str) -> str:
        """Read a page that a search has found.

        Args:
            url: The page's address.
        """
        if url not in self.found:
            raise ToolError("only pages that a search has found can be read")
        words = (await self.shared.read(url)).split(" ")
        return " ".join(words[: self.config.max_words])

    def verify(self, rollout: Rollout) -> Verdict:
        """1 if the boxed answer is the expected one, else 0."""
        answers = boxed(rollout.all_text if self.config.parity else rollout.final_text)
        if self.config.parity:
            answer = answers[0] if answers else None
            right = answer == self.task.expected_answer
        else:
            answer = answers[0] if len(answers) == 1 else None
            right = answer is not None and plain(answer) == plain(self.task.expected_answer)
        counts = {"searches": 0.0, "pages_read": 0.0}
        for call in rollout.tool_calls:
            counts["searches" if call.name == "search" else "pages_read"] += 1
        return Verdict(float(right), fields={"extracted_answer": answer}, metrics=counts)

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """Search and read as the row's ``hops`` say, then answer."""
        steps: list[Any] = []
        for hop in (task.model_extra or {}).get("hops", []):
            steps.append({"name": "search", "arguments": {"query": hop["query"]}})
            steps.append({"name": "browse", "arguments": {"url": hop["url"]}})
        return [*steps, f"\\boxed{{{task.expected_answer}}}"]

    @classmethod
    def cheats(cls, task: Task) -> dict[str, list[Any]]:
        """Several boxes; the answer among others in one box; a page that was not found."""
        answer = task.expected_answer
        return {
            "several boxes": [f"\\boxed{{1900}} \\boxed{{{answer}}}"],
            "one box of all": [f"\\boxed{{1900 or {answer}}}"],
            "searches the question": [{"name": "search", "arguments": {"query": task.question}}, "\\boxed{unknown}"],
        }


def boxed(text: str) -> list[str]:
    """What stands in each ``boxed{}`` of a text, braces balanced."""
    found = []
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth, start = 1, match.end()
        for position in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                found.append(text[start:position].strip())
                break
    return found


def plain(text: str) -> str:
    """A text without case, outer punctuation and extra space."""
    return " ".join(text.casefold().split()).strip(" .,;:!\"'")
