"""Verdicts of judge models: one question, a label for an answer.

A judge is a role of the environment (``models.judge`` in its manifest), served by a ModelServer or any endpoint. Its
tokens stand in the row under its role. ``Judge`` holds what all rollouts of a process share: make it in ``setup``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from kubegym.core.errors import JudgeError, ModelError
from kubegym.core.messages import Message

Ask = Callable[..., Awaitable[Message]]
"""A role, such as ``self.models.judge``."""

_EXCERPT = 200
_FENCE = "={6,}"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge said.

    Attributes:
        label: the verdict: one of the judge's labels; None for a text without one, where that is allowed.
        text: all that it said.
        cached: it was asked before; this time it cost nothing.
        request: what it was asked, as create-params.
    """

    label: str | None
    text: str
    cached: bool
    request: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the contract's ``judge_evaluations``; of the response only what was said."""
        message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": self.text}]}
        return {
            "responses_create_params": self.request,
            "response": {"output": [message]},
            "verdict_label": self.label,
        }


class Judge:
    """A question to a judge model, with the labels it may answer.

    Opinions are kept by content: equal questions to the same role are asked once, also while the first is on its way.
    Several draws of one question (``draw``) are apart.

    Args:
        prompt: the question; ``{name}`` is filled in from what ``ask`` is given, double braces are braces.
        labels: what it may answer. The label that occurs first in its text is its verdict.
        system: a system message.
        sampling: create-params of each call; default temperature 0.
        concurrency: calls at a time.
        cache: opinions kept; 0 keeps none.
        guard: take labels, and lines that fence answers in (``======``), out of what is filled in, so that an answer
            cannot carry a verdict along or pretend to have ended.
    """

    def __init__(
        self,
        prompt: str,
        labels: Sequence[str],
        *,
        system: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        cache: int = 100_000,
        guard: bool = True,
    ) -> None:
        self.labels = tuple(labels)
        self._prompt = prompt
        self._system = system
        self._sampling = {"temperature": 0.0} if sampling is None else dict(sampling)
        self._places = asyncio.Semaphore(concurrency)
        self._size = cache
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[ModelError | None]] = {}
        self._guard = _guard(labels) if guard else None
        self.version = blake2b(
            orjson.dumps([prompt, system, self.labels, self._sampling], option=orjson.OPT_SORT_KEYS), digest_size=4
        ).hexdigest()
        """Digest of the question: another one means other verdicts."""

    async def ask(self, role: Ask, parts: Mapping[str, str], *, draw: int = 0, unparseable: bool = False) -> Opinion:
        """Ask, and read the verdict.

        Args:
            role: whom, such as ``self.models.judge``.
            parts: what the prompt's ``{name}`` stand for.
            draw: which opinion of several on the same question.
            unparseable: give an Opinion without label for a text that has none, instead of raising.

        Raises:
            JudgeError: "VerdictUnparseable", what it said holds none of the labels.
            ModelError: it could not be asked; in ``verify`` that is a failure of stage judge, too.
        """
        request = self._request(parts)
        text, cached = await self._text(role, request, draw)
        label = first_label(text, self.labels)
        if label is None and not unparseable:
            raise JudgeError(
                f"the judge said none of {', '.join(self.labels)}: {_excerpt(text)}", reason="VerdictUnparseable"
            )
        return Opinion(label, text, cached, request)

    def _request(self, parts: Mapping[str, str]) -> dict[str, Any]:
        if self._guard is not None:
            parts = {name: self._guard(part) for name, part in parts.items()}
        messages = [Message.system(self._system).to_item()] if self._system else []
        return {**self._sampling, "input": [*messages, Message.user(self._prompt.format(**parts)).to_item()]}

    async def _text(self, role: Ask, request: dict[str, Any], draw: int) -> tuple[str, bool]:
        key = _key(role, request, draw)
        while True:
            if (text := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return text, True
            first = self._asked.get(key)
            if first is None:
                break
            await asyncio.wait([first])
            if (error := first.result()) is not None:
                raise ModelError(error.message, reason=error.reason, retryable=error.retryable) from error
            # Whoever asked was cancelled, or nothing is kept: then this one asks.
        settled = self._asked[key] = asyncio.get_running_loop().create_future()
        failed: ModelError | None = None
        try:
            async with self._places:
                text = (await role(request["input"], **self._sampling)).text
            if self._size:
                self._kept[key] = text
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)
            return text, False
        except ModelError as error:
            failed = error
            raise
        finally:
            del self._asked[key]
            settled.set_result(failed)


def first_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that occurs first in a text; None where none does."""
    found = [(position, label) for label in labels if (position := text.find(label)) >= 0]
    return min(found)[1] if found else None


async def majority(
    judge: Judge, roles: Sequence[Ask], parts: Mapping[str, str], *, draws: int = 1
) -> tuple[str, list[Opinion]]:
    """What more than half of several judges say, or of several draws of one.

    Args:
        judge: the question.
        roles: whom to ask.
        parts: see ``Judge.ask``.
        draws: how often each; more than one makes sense with a temperature above 0.

    Raises:
        JudgeError: "NoMajority", no label has more than half of all opinions; texts without a label count as such.
    """
    asked = [judge.ask(role, parts, draw=draw, unparseable=True) for role in roles for draw in range(draws)]
    opinions = await asyncio.gather(*asked)
    counts = Counter(opinion.label for opinion in opinions if opinion.label is not None)
    label, votes = counts.most_common(1)[0] if counts else ("", 0)
    if 2 * votes <= len(opinions):
        said = ", ".join(f"{count} x {label}" for label, count in counts.items()) or "no label at all"
        raise JudgeError(f"no majority among {len(opinions)} opinions: {said}", reason="NoMajority")
    return label, list(opinions)


async def prefer(
    judge: Judge,
    role: Ask,
    first: str,
    second: str,
    parts: Mapping[str, str],
    *,
    names: tuple[str, str] = ("first", "second"),
) -> tuple[float, list[Opinion]]:
    """Compare two answers in both orders: 1 the first is better, 0 the second, 0.5 neither, or the order decided.

    Args:
        judge: its labels mean, in order: the one shown first is better, the one shown second, neither (optional).
        role: whom to ask.
        first: an answer.
        second: the other.
        parts: the prompt's other parts.
        names: what the prompt calls the two.

    Raises:
        JudgeError: an opinion without label.
    """
    pairs = ((first, second), (second, first))
    opinions = await asyncio.gather(
        *(judge.ask(role, {**parts, **dict(zip(names, pair, strict=True))}) for pair in pairs)
    )
    points = {judge.labels[0]: 1.0, judge.labels[1]: 0.0}
    given, swapped = (points.get(opinion.label or "", 0.5) for opinion in opinions)
    return (given + 1.0 - swapped) / 2, list(opinions)


def _guard(labels: Sequence[str]) -> Callable[[str], str]:
    spelled = [r"\s*".join(map(re.escape, label)) for label in labels]
    pattern = re.compile("|".join([*spelled, _FENCE]), re.IGNORECASE)
    return lambda part: pattern.sub("(removed)", part)  # not to nothing: what is left must not make a label again


def _key(role: Ask, request: dict[str, Any], draw: int) -> bytes:
    name = getattr(role, "role", "")
    return blake2b(orjson.dumps([name, draw, request], option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}...")
