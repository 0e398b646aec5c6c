"""``self.models``: how an environment asks judges and simulated users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kubegym.core.clock import Deadline
from kubegym.core.errors import ModelError
from kubegym.core.messages import Item, Message, is_assistant_message, item_text
from kubegym.core.protocols import CallContext, ModelClient
from kubegym.core.usage import count_call

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

    def __getattr__(self, role: str) -> Role:
        client = self._clients.get(role)
        if client is None:
            known = ", ".join(sorted(self._clients)) or "none"
            raise AttributeError(
                f"no model has the role {role!r} (roles: {known}); give it under `models` of the manifest"
            )
        return Role(role, client, self._rollout_id, self._usage)


class Role:
    """One of the models: call it to ask. ``role`` is its name in the manifest, ``model`` the model's."""

    __slots__ = ("_client", "_rollout_id", "_usage", "role")

    def __init__(self, role: str, client: ModelClient, rollout_id: str, usage: dict[str, dict[str, int]]) -> None:
        self.role = role
        self._client = client
        self._rollout_id = rollout_id
        self._usage = usage

    @property
    def model(self) -> str:
        """The model's name."""
        return self._client.model

    async def __call__(self, messages: str | Sequence[Message | Item], **params: Any) -> Message:
        """See ``ModelRoles``."""
        with self._named():
            reply = await self._client.respond({**params, "input": _items(messages)}, self._context())
        count_call(self._usage.setdefault(self.role, {}), reply.response.get("usage"))
        return Message.assistant(_last_text(reply.response.get("output") or ()))

    async def question(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a route of its engine beside generation, see ``core.protocols.Questions``.

        Raises:
            ModelError: no usable reply, or its client has no such routes.
        """
        ask = getattr(self._client, "question", None)
        with self._named():
            if ask is None:
                raise ModelError(f"{self.model} has no route {path}", reason="RequestUnsupported")
            reply: dict[str, Any] = await ask(path, body, self._context())
        told = reply.get("usage")
        tokens = told.get("prompt_tokens") if isinstance(told, dict) else None
        count_call(self._usage.setdefault(self.role, {}), {"input_tokens": tokens})
        return reply

    def _context(self) -> CallContext:
        return CallContext(self._rollout_id, hook_deadline.get() or Deadline(_WITHOUT_DEADLINE_SECONDS))

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            error.message = f"role {self.role}: {error.message}"
            error.args = (error.message,)
            raise


def _items(messages: str | Sequence[Message | Item]) -> list[Item]:
    if isinstance(messages, str):
        return [Message.user(messages).to_item()]
    return [message.to_item() if isinstance(message, Message) else message for message in messages]


def _last_text(output: Sequence[Item]) -> str:
    return next((item_text(item) for item in reversed(output) if is_assistant_message(item)), "")
