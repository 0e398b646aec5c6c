"""What a program asked at its rollout's base URL, as the conversation that a row keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kubegym.core.messages import Item, input_items
from kubegym.core.protocols import CallContext, ModelReply, SeenCall, SeenCalls
from kubegym.core.tokens import TOKEN_FIELDS, last_told
from kubegym.model.convert import read_completion, response_items
from kubegym.model.rollout_urls import CapturedCall, RolloutUrls
from kubegym.model.upstream import Client


class RolloutCalls:
    """Implements ``core.protocols.ModelUrls`` over replicas of a model; to be entered with ``async with``.

    Args:
        upstreams: as ``RolloutUrls``.
        model: the name to ask for.
        options: as ``RolloutUrls``.
    """

    def __init__(self, upstreams: Sequence[Client | str], model: str, **options: Any) -> None:
        self.model = model
        self._urls = RolloutUrls(upstreams, model=model, capture=self, **options)
        self._seen: dict[str, list[SeenCall]] = {}

    async def __aenter__(self) -> RolloutCalls:
        await self._urls.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._urls.__aexit__(*exception)

    def open(
        self, context: CallContext, *, max_calls: int | None = None, seeds: Callable[[int], int] | None = None
    ) -> str:
        """The rollout's base URL (``RolloutUrls.open``)."""
        self._seen[context.rollout_id] = []
        return self._urls.open(context, max_calls=max_calls, seeds=seeds)

    def shut(self, rollout_id: str) -> SeenCalls:
        """The rollout is over; what its program asked."""
        trouble, refused = self._urls.shut(rollout_id)
        return SeenCalls(self._seen.pop(rollout_id, []), trouble, refused)

    def captured(self, call: CapturedCall) -> None:
        """Keep a call until its rollout is over; one that ends later is nobody's."""
        if (calls := self._seen.get(call.rollout_id)) is not None:
            calls.append(seen_call(call))


def seen_call(call: CapturedCall) -> SeenCall:
    """A captured call as items and a reply. Pure."""
    (version, runs), seconds = call.policy, call.seconds
    if call.dialect == "responses":
        output = call.reply["output"]
        tokens = last_told(output)
        plain = [{name: value for name, value in item.items() if name not in TOKEN_FIELDS} for item in output]
        stop = call.stop
        reply = ModelReply(
            {**call.reply, "output": plain}, version, seconds, stop=stop, tokens=tokens, policy_runs=runs
        )
        return SeenCall(input_items(call.request["input"]), reply)
    completion = read_completion(_as_chat(call.reply), {}, f"{call.rollout_id}-{call.started_at:.6f}")
    stop, tokens = completion.stop, completion.tokens
    reply = ModelReply(completion.response, version, seconds, stop=stop, tokens=tokens, policy_runs=runs)
    return SeenCall(_asked(call), reply)


def _asked(call: CapturedCall) -> list[Item]:
    if call.dialect == "chat":
        return response_items(call.request["messages"])
    prompt = call.request.get("prompt")
    return [{"role": "user", "content": prompt if isinstance(prompt, str) else ""}]


def _as_chat(reply: dict[str, Any]) -> dict[str, Any]:
    """A text completion in the words of a chat completion; a chat completion as it is."""
    choices = [
        choice if "message" in choice else {**choice, "logprobs": None, "message": {"content": choice.get("text")}}
        for choice in reply["choices"]
    ]
    return {**reply, "choices": choices}
