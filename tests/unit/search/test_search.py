"""Ranking, passages of long pages, and pages that are kept."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import ToolError
from kubegym.search.corpus import Corpus
from kubegym.search.passages import passages
from kubegym.search.web import Pool

pytestmark = pytest.mark.unit

WORDS = st.lists(st.sampled_from(["tower", "bell", "the", "of", "1815", "Ada"]), max_size=200)


def test_words_that_stand_together_rank_above_the_same_words_apart() -> None:
    index = Corpus([("apart", "", "copper bells, a stone organ"), ("joined", "", "stone bells, a copper organ")])
    assert [one["link"] for one in index.find("a copper organ", 2)] == ["joined", "apart"]
    assert [one["link"] for one in index.find("a stone organ", 2)] == ["apart", "joined"]
    index.close()


@given(page=WORDS, query=WORDS.map(" ".join), count=st.integers(1, 5), words=st.integers(1, 50))
def test_passages_are_pieces_of_the_page_that_share_no_word(
    page: list[str], query: str, count: int, words: int
) -> None:
    found = asyncio.run(passages(" ".join(page), query, count=count, words=words))
    assert len(found) <= count
    asked = {word.lower() for word in query.split()}
    taken: Counter[int] = Counter()
    for one in found:
        piece = page[one["start_index"] : one["start_index"] + words]
        assert one["text"] == " ".join(piece)
        assert asked & {word.lower() for word in piece}
        taken.update(range(one["start_index"], one["start_index"] + len(piece)))
    assert all(times == 1 for times in taken.values())
    if asked & {word.lower() for word in page}:
        assert found


def test_what_a_passage_cuts_in_two_stands_whole_in_the_next() -> None:
    page = [f"word{n}" for n in range(100)]
    for start in range(90):
        phrase = " ".join(page[start : start + 5])
        (found,) = asyncio.run(passages(" ".join(page), phrase, count=1, words=10))
        assert phrase in found["text"]


class Told(Pool):
    """Pages that are as long as their addresses say, and how often each was read."""

    def __init__(self, kept_characters: int) -> None:
        super().__init__(kept_characters)
        self.read: Counter[str] = Counter()

    def _page(self, url: str) -> str:
        self.read[url] += 1
        if not url.isdecimal():
            raise ToolError("there is none")
        return int(url) * "x"


async def test_a_page_is_read_once_while_there_is_room() -> None:
    pool = Told(100)
    for url in ("40", "50", " 40 ", "60", "40", "60", "50"):
        assert len(await pool.page(url)) == int(url)
    assert pool.read == {"40": 1, "50": 2, "60": 1}, "50 had to make room, being the one that was asked for first"
    assert len(await pool.page("101")) == 101
    assert len(await pool.page("101")) == 101
    assert pool.read["101"] == 2
    for _ in range(2):
        with pytest.raises(ToolError):
            await pool.page("none")
    assert pool.read["none"] == 2
    pool.close()


async def test_two_readers_of_one_page_count_it_once() -> None:
    pool = Told(100)
    await asyncio.gather(*(pool.page("60") for _ in range(3)))
    await pool.page("40")
    before = pool.read.copy()
    await pool.page("60")
    assert pool.read == before
    pool.close()
