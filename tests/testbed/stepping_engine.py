"""An engine that makes a token of every request when the test says so, and whose tokens show which weights made them.

Its routes are those of vLLM by which calls stay while weights change: pause and resume, reload, the label, the three
steps of a chat call, and the canary's question, which waits while it is paused as any other does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from kubegym.http.server import App, Reply, Request
from kubegym.model.simulated.weights import simulated_log_probs
from testbed.served import serving

PROMPT = (7, 8, 9)
MODEL = "policy"


@dataclass(eq=False)
class _Running:
    """A request at the engine."""

    wanted: int
    over: asyncio.Future[str]
    ids: list[int] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)


class SteppingEngine(App):
    """See above.

    Args:
        folder: its first weights; a folder's tokens are the code points of its name's first letter.

    Attributes:
        stale: reloads are answered 200 and do not arrive.
        scale_out: whether it has the three steps.
        label: what its weights are called.
        on_question: called before a canary's question is answered.
        answers: unset, canaries' questions wait.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Path | None = folder
        self.stale = False
        self.scale_out = True
        self.on_question: Callable[[], None] = lambda: None
        self.answers = asyncio.Event()
        self.answers.set()
        self._first = folder
        self.label = "default"
        self._running: dict[_Running, None] = {}
        self._numbers = itertools.count()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._changed = asyncio.Condition()
        routes: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "/pause": self._pause,
            "/resume": self._resume,
            "/abort_requests": self._abort,
            "/collective_rpc": self._reload,
            "/reset_prefix_cache": self._reset,
            "/update_weight_version": self._version,
            "/v1/completions": self._complete,
            "/v1/chat/completions": self._chat,
            "/v1/chat/completions/render": self._render,
            "/v1/chat/completions/derender": self._derender,
            "/inference/v1/generate": self._generate,
        }
        super().__init__(
            "stepping engine",
            {
                **{("POST", path): self._handler(path, work) for path, work in routes.items()},
                ("GET", "/weight_info"): self._info,
                ("GET", "/v1/models"): self._models,
            },
            registry=CollectorRegistry(),
            document=dict,
        )

    @property
    def running(self) -> int:
        """Requests at the engine."""
        return len(self._running)

    async def until(self, running: int) -> None:
        """Wait until so many requests are at the engine."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._running) == running)

    def step(self, times: int = 1) -> None:
        """One token more of every request; nothing while it is paused."""
        if not self._resumed.is_set():
            return
        for one in [one for one in self._running for _ in range(times)]:
            if one.over.done():
                continue
            assert self.folder is not None, "vLLM ends here"
            if not one.spans or one.spans[-1]["version"] != self.label:
                one.spans.append({"version": self.label, "start": len(one.ids), "end": len(one.ids)})
            one.ids.append(ord(self.folder.name[0]))
            one.spans[-1]["end"] = len(one.ids)
            if len(one.ids) == one.wanted:
                one.over.set_result("length")

    def _handler(self, path: str, work: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        async def handle(request: Request) -> Reply:
            if not self.scale_out and path.endswith(("render", "generate")):
                return Reply(b"{}", 403)
            if path == "/pause":
                return Reply.json(await self._pause({"mode": request.parameters().get("mode", "abort")}))
            told = await work(request.object() if request.body else {})
            return told if isinstance(told, Reply) else Reply.json(told)

        return handle

    async def _info(self, request: Request) -> Reply:
        return Reply.json({"weight_version": self.label})

    async def _models(self, request: Request) -> Reply:
        return Reply.json({"object": "list", "data": [{"id": MODEL, "object": "model", "root": str(self._first)}]})

    async def _pause(self, body: dict[str, Any]) -> Any:
        self._resumed.clear()
        if body["mode"] == "abort":
            await self._abort({})
        return {"status": "paused"}

    async def _resume(self, body: dict[str, Any]) -> Any:
        self._resumed.set()
        return {"status": "resumed"}

    async def _abort(self, body: dict[str, Any]) -> Any:
        for one in self._running:
            if not one.over.done():
                one.over.set_result("abort")
        return {"status": "aborted"}

    async def _reload(self, body: dict[str, Any]) -> Any:
        assert not self._resumed.is_set(), "weights change while it is paused"
        folder = Path(body["kwargs"]["weights_path"])
        if not (folder / "model.safetensors").is_file():
            self.folder = None
            return Reply.json({"error": {"message": "no such weights"}}, 500)
        if not self.stale:
            self.folder = folder
        return {"results": [None]}

    async def _reset(self, body: dict[str, Any]) -> Any:
        return {"success": True}

    async def _version(self, body: dict[str, Any]) -> Any:
        assert not self._resumed.is_set(), "its label changes while it is paused"
        self.label = body["new_version"]
        return {"success": True}

    async def _complete(self, body: dict[str, Any]) -> Any:
        await self._resumed.wait()
        self.on_question()
        await self.answers.wait()
        assert self.folder is not None
        told = simulated_log_probs(self.folder, body["prompt"])
        log_probs = [None, *({str(one): {"logprob": p}} for one, p in zip(body["prompt"][1:], told, strict=True))]
        return {"choices": [{"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": log_probs}]}

    async def _made(self, wanted: int) -> tuple[_Running, str]:
        one = _Running(wanted, asyncio.get_running_loop().create_future())
        await self._change(lambda: self._running.update({one: None}))
        try:
            return one, await one.over
        finally:
            await self._change(lambda: self._running.pop(one))

    async def _change(self, change: Callable[[], Any]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def _render(self, body: dict[str, Any]) -> Any:
        sampling = {"max_tokens": body.get("max_tokens", 16), "logprobs": 0 if body.get("logprobs") else None}
        identity = f"chatcmpl-{next(self._numbers)}"
        return {"request_id": identity, "token_ids": list(PROMPT), "sampling_params": sampling, "model": body["model"]}

    async def _generate(self, body: dict[str, Any]) -> Any:
        one, finish = await self._made(body["sampling_params"]["max_tokens"])
        choice = {"index": 0, "finish_reason": finish, "token_ids": one.ids, "weight_versions": one.spans}
        content = [{"token": chr(token), "logprob": -0.5, "top_logprobs": [{}]} for token in one.ids]
        logprobs = {"content": content} if body["sampling_params"]["logprobs"] is not None else None
        told = {"request_id": body["request_id"], "model": body["model"], "created": 1, "usage": _usage(one)}
        return {**told, "choices": [{**choice, "text": _text(one.ids), "logprobs": logprobs}]}

    async def _derender(self, body: dict[str, Any]) -> Any:
        ids = body["generate_response"]["choices"][0]["token_ids"]
        call = {
            "id": "call-1",
            "type": "function",
            "function": {"name": "say", "arguments": orjson.dumps(ids).decode()},
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    async def _chat(self, body: dict[str, Any]) -> Any:
        one, finish = await self._made(body.get("max_tokens", 16))
        choice = {"index": 0, "message": {"role": "assistant", "content": _text(one.ids)}, "finish_reason": finish}
        return {
            "id": "chatcmpl",
            "object": "chat.completion",
            "model": MODEL,
            "choices": [choice],
            "usage": _usage(one),
        }


def _text(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def _usage(one: _Running) -> dict[str, int]:
    made = len(one.ids)
    return {"prompt_tokens": len(PROMPT), "completion_tokens": made, "total_tokens": len(PROMPT) + made}


@asynccontextmanager
async def stepping(folder: Path) -> AsyncIterator[tuple[SteppingEngine, str]]:
    """The engine, and its base URL, with ``/v1``."""
    engine = SteppingEngine(folder)
    async with serving(engine) as url:
        try:
            yield engine, f"{url}/v1"
        finally:
            await engine._abort({})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await engine.until(0)
