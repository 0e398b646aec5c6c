"""``self.models``: how an environment asks judges and simulated users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.messages import Item, Message, is_assistant_message, item_text
from kubegym.core.protocols import CallContext, ModelClient
from kubegym.core.usage import count_call

Ask = Callable[..., Awaitable[Message]]

hook_deadline: ContextVar[Deadline | None] = ContextVar("hook_deadline", default=None)
"""The deadline of the hook that runs in this context."""

_WITHOUT_DEADLINE_SECONDS = 3600.0


class ModelRoles:
    """The environment's models by role: ``await self.models.judge(messages, temperature=0.0)``.

    ``messages`` is a text (one user message) or a list of ``Message`` and Responses items; keywords are Responses
    create-params. The answer is a ``Message``.

    Raises:
        AttributeError: the environment's manifest gives no model for that role.
        ModelError: no usable reply. Inside of ``verify`` it becomes the failure stage "judge".
    """

    __slots__ = ("_clients", "_rollout_id", "_usage")

    def __init__(self, clients: Mapping[str, ModelClient], rollout_id: str, usage: dict[str, dict[str, int]]) -> None:
        self._clients = clients
        self._rollout_id = rollout_id
        self._usage = usage

    def __getattr__(self, role: str) -> Ask:
        client = self._clients.get(role)
        if client is None:
            known = ", ".join(sorted(self._clients)) or "none"
            raise AttributeError(
                f"no model has the role {role!r} (roles: {known}); give it under `models` of the manifest"
            )

        async def ask(messages: str | Sequence[Message | Item], **params: Any) -> Message:
            return await self._ask(role, client, messages, params)

        return ask

    async def _ask(
        self, role: str, client: ModelClient, messages: str | Sequence[Message | Item], params: dict[str, Any]
    ) -> Message:
        deadline = hook_deadline.get() or Deadline(_WITHOUT_DEADLINE_SECONDS)
        try:
            reply = await client.respond({**params, "input": _items(messages)}, CallContext(self._rollout_id, deadline))
        except ModelError as error:
            error.message = f"role {role}: {error.message}"
            error.args = (error.message,)
            raise
        count_call(self._usage.setdefault(role, {}), reply.response.get("usage"))
        return Message.assistant(_last_text(reply.response.get("output") or ()))


def _items(messages: str | Sequence[Message | Item]) -> list[Item]:
    if isinstance(messages, str):
        return [Message.user(messages).to_item()]
    return [message.to_item() if isinstance(message, Message) else message for message in messages]


def _last_text(output: Sequence[Item]) -> str:
    return next((item_text(item) for item in reversed(output) if is_assistant_message(item)), "")
