"""A prompt that continues the ids of the call before it, where the engine would make other tokens of the same text.

A reply's text need not become the tokens again that were sampled: tokenizers know several ways to spell one text, and
tool calls are parsed and written anew by the template. Trained on such a prompt, a policy learns from what it never
said. So the engine is asked how it would render the conversation (``/tokenize``); where the known ids are not its
beginning but their text is, the known ids go before the new part, and the prompt is sent as ids. Where the text differs
too, the template or the harness rewrote the history, and the engine's rendering stands.

vLLM takes a prompt's ids with a chat call in ``kv_transfer_params.prompt_token_ids``: tools and reasoning of the reply
are parsed as ever. It ignores them where messages hold more than text; those conversations are left as they are.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from kubegym.core.tokens import CallTokens

log = logging.getLogger("kubegym.model")

Ask = Callable[[str, dict[str, Any], float], Awaitable[dict[str, Any] | None]]
"""Asks a route beside ``/v1``: path, body, seconds. None where there is no such route, empty where the engine refuses.
Raises ModelError."""

History = Literal["appended", "spliced", "rewritten"]

_RENDERED = (
    *("add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs"),
    *("continue_final_message", "messages", "model", "tools"),
)
"""Of a chat call: what ``/tokenize`` knows, too."""
_FIELD, _IDS = "kv_transfer_params", "prompt_token_ids"


class Joint(NamedTuple):
    """Where known ids end in a rendering.

    Attributes:
        same: up to here, the end of a turn, both are equal.
        end: in the rendering, behind the last known turn.
    """

    same: int
    end: int


def joint(rendered: array[int], known: array[int]) -> Joint | None:
    """The place in a rendering that has as many ends of turns before it as the known ids; None where there is none.

    The last known id is what the policy ended its turn with. Whether both say the same before that place is another
    question (``same_text``).
    """
    ending, place, same = known[-1], -1, 0
    for _ in range(known.count(ending)):
        try:
            place = rendered.index(ending, place + 1)
        except ValueError:
            return None
        if same <= place and rendered[same : place + 1] == known[same : place + 1]:
            same = place + 1
    return Joint(same, place + 1)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are equal but for white space, which templates strip and JSON is written with or without."""
    return one.split() == other.split() or "".join(one.split()) == "".join(other.split())


class Splicer:
    """Continues conversations with one engine.

    Args:
        ask: asks the engine.

    Attributes:
        histories: how often a call's history was what.
    """

    def __init__(self, ask: Ask) -> None:
        self.histories: Counter[History] = Counter()
        self._ask = ask
        self._works = True

    async def continued(self, body: dict[str, Any], previous: CallTokens, timeout: float) -> dict[str, Any]:
        """The call, with the ids of its prompt where the engine would not continue the previous call's by itself.

        Args:
            body: of the chat call.
            previous: the rollout's call before.
            timeout: seconds for each question to the engine.

        Raises:
            ModelError: the engine is not there.
        """
        if not self._works or not previous.generated or _beyond_text(body):
            return body
        answer = await self._ask("tokenize", {name: body[name] for name in _RENDERED if name in body}, timeout)
        if answer is None:
            self._works = False
        rendered = _ids(answer)
        if rendered is None:
            return body
        known = previous.prompt + previous.generated
        if rendered[: len(known)] == known:
            self.histories["appended"] += 1
            return body
        at = joint(rendered, known)
        if at is None or not await self._same(body, rendered[at.same : at.end], known[at.same :], timeout):
            self.histories["rewritten"] += 1
            return body
        self.histories["spliced"] += 1
        prompt = (known + rendered[at.end :]).tolist()
        return {**body, _FIELD: {**(body.get(_FIELD) or {}), _IDS: prompt}}

    def check(self, body: dict[str, Any], told: CallTokens | None) -> None:
        """Notice an engine that took the text instead of the ids: it is not asked for more of that."""
        sent = (body.get(_FIELD) or {}).get(_IDS)
        if sent is not None and told is not None and told.prompt.tolist() != sent and self._works:
            self._works = False
            log.warning("the engine takes no ids for a prompt: a reply that becomes other tokens opens a new sample")

    async def _same(self, body: dict[str, Any], one: array[int], other: array[int], timeout: float) -> bool:
        texts = []
        for ids in (one, other):
            question = {"model": body.get("model"), "tokens": ids.tolist()}
            text = ((await self._ask("detokenize", question, timeout)) or {}).get("prompt")
            if not isinstance(text, str):
                return False
            texts.append(text)
        return same_text(*texts)


def _ids(answer: Any) -> array[int] | None:
    try:
        return array("i", answer["tokens"])
    except (KeyError, TypeError, OverflowError):
        return None


def _beyond_text(body: dict[str, Any]) -> bool:
    messages: Sequence[Any] = body.get("messages") or ()
    parts = [message.get("content") for message in messages if isinstance(message, dict)]
    return any(
        isinstance(part, dict) and part.get("type") != "text"
        for content in parts
        if isinstance(content, list)
        for part in content
    )
