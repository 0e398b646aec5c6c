from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubegym.http.presence import ClientGone, WhileConnected
from kubegym.http.server import App, Reply, Request

pytestmark = pytest.mark.unit


class Channel:
    """ASGI's two directions, without a server."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def receive(self) -> dict[str, Any]:
        return await self.messages.get()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def get(self, app: App) -> None:
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
        await app(scope, self.receive, self.send)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


class TestWhileConnected:
    async def test_the_block_goes_on_while_the_client_is_there(self) -> None:
        channel = Channel()
        async with WhileConnected(channel.receive):
            await asyncio.sleep(0)

    async def test_the_block_ends_when_the_client_leaves(self) -> None:
        channel = Channel()
        channel.leave()
        with pytest.raises(ClientGone):
            async with WhileConnected(channel.receive):
                await never()
        await asyncio.sleep(0)  # nothing is left of the cancellation

    async def test_leaving_just_as_the_block_ends(self) -> None:
        channel = Channel()
        task = asyncio.current_task()
        assert task is not None

        async def work() -> None:
            guard = WhileConnected(channel.receive)
            async with guard:
                guard._gone = True  # as the watch does, with no await left in the block
                task.cancel()

        with pytest.raises(ClientGone):
            await work()
        await asyncio.sleep(0)  # nothing is left of the cancellation

    async def test_a_cancellation_by_others_stays_one(self) -> None:
        channel = Channel()

        async def work() -> None:
            async with WhileConnected(channel.receive):
                await never()

        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def test_an_error_of_the_block_stays_one(self) -> None:
        channel = Channel()
        with pytest.raises(KeyError):
            async with WhileConnected(channel.receive):
                raise KeyError


class TestStreams:
    async def test_whole(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        channel = Channel()
        await channel.get(app_of(body()))
        assert [message.get("body") for message in channel.sent] == [None, b"a", b"b", b""]
        assert not channel.sent[-1].get("more_body")

    async def test_a_stream_that_breaks_has_no_end(self, caplog: pytest.LogCaptureFixture) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            raise OSError("upstream died")

        channel = Channel()
        with caplog.at_level(logging.WARNING, "kubegym.http"):
            await channel.get(app_of(body()))
        assert channel.sent[-1] == {"type": "http.response.body", "body": b"a", "more_body": True}
        assert "upstream died" in caplog.text

    async def test_a_stream_ends_with_its_client(self) -> None:
        closed = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"a"
                await never()
            finally:
                closed.set()

        channel = Channel()
        running = asyncio.ensure_future(channel.get(app_of(body())))
        while len(channel.sent) < 2:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        channel.leave()
        await running
        assert closed.is_set()
        assert channel.sent[-1]["more_body"]

    async def test_a_handler_whose_client_left_answers_nobody(self) -> None:
        async def handler(request: Request) -> Reply:
            assert request.receive is not None
            async with WhileConnected(request.receive):
                await never()
            raise AssertionError

        channel = Channel()
        channel.leave()
        await channel.get(App("test", {("GET", "/x"): handler}))
        assert channel.sent == []


def app_of(stream: AsyncIterator[bytes]) -> App:
    async def handler(request: Request) -> Reply:
        return Reply(stream=stream, content_type=b"text/event-stream")

    return App("test", {("GET", "/x"): handler})
