"""Replies read piece by piece: order, ends that are no ends, back-pressure, what happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kubegym.http import (
    BodyTooLarge,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    HttpClient,
    HttpError,
    ProtocolError,
    ReadTimeout,
    StreamedReply,
    Url,
)
from kubegym.http.streamed import HIGH_WATER
from testbed.raw_server import Peer, on_both_loops, raw_server

pytestmark = pytest.mark.unit

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def http_client(**options) -> AsyncIterator[HttpClient]:
    client = HttpClient(**options)
    try:
        yield client
    finally:
        await client.close()


def opened(client: HttpClient, url: str, timeout: float = 30.0, **options):
    return client.stream(b"POST", Url(url), b"", b"{}", timeout, **options)


async def pieces(reply: StreamedReply) -> bytes:
    return b"".join([piece async for piece in reply])


class TestPieces:
    @staticmethod
    @on_both_loops
    async def test_each_comes_when_it_is_there_and_the_connection_is_kept() -> None:
        heard = asyncio.Event()

        async def script(peer: Peer) -> None:
            for _ in range(2):
                await peer.request()
                peer.say(HEAD + chunk(b"one"))
                await heard.wait()
                heard.clear()
                peer.say(chunk(b"two") + END)  # not sent before the first piece was read

        async with raw_server(script) as url, http_client() as client:
            for _ in range(2):
                async with opened(client, url) as reply:
                    assert reply.status == 200
                    assert reply.header(b"content-type") == b"text/event-stream"
                    assert await anext(reply) == b"one"
                    heard.set()
                    assert await pieces(reply) == b"two"
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_a_body_that_is_whole_before_anybody_reads() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.ok(b"x" * 10)
            await peer.request()
            peer.ok(b"")

        async with raw_server(script) as url, http_client() as client:
            async with opened(client, url) as reply:
                assert await reply.read(100) == b"x" * 10
                assert await reply.read(100) == b""
            async with opened(client, url) as reply:
                assert await reply.read(100) == b""
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_the_end_of_the_connection_may_be_the_end_of_the_body() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(b"HTTP/1.1 200 OK\r\n\r\nall there is")

        async with raw_server(script) as url, http_client() as client, opened(client, url) as reply:
            assert await pieces(reply) == b"all there is"

    @staticmethod
    @on_both_loops
    async def test_interim_replies_are_passed_over() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow Down\r\ncontent-length: 2\r\n\r\nno")
            await peer.gone()

        async with raw_server(script) as url, http_client() as client, opened(client, url) as reply:
            assert reply.status == 429
            assert await reply.read(100) == b"no"

    @staticmethod
    @on_both_loops
    async def test_more_than_asked_for() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.ok(b"x" * 200)
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            with pytest.raises(BodyTooLarge):
                async with opened(client, url) as reply:
                    await reply.read(100)


class TestNoCleanEnd:
    @staticmethod
    @on_both_loops
    async def test_a_death_within_the_body_is_an_error_after_what_came() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(HEAD + chunk(b"half of"))

        async with raw_server(script) as url, http_client() as client, opened(client, url) as reply:
            assert await anext(reply) == b"half of"
            with pytest.raises(ConnectionLost) as caught:
                await anext(reply)
            assert not caught.value.before_reply

    @staticmethod
    @on_both_loops
    async def test_a_death_before_the_head_is_repeated_only_on_a_kept_connection() -> None:
        numbers: list[int] = []

        async def script(peer: Peer) -> None:
            await peer.request()
            numbers.append(peer.number)
            if peer.number == 0:
                peer.ok(b"first")
                await peer.request()
                return
            peer.ok(b"second")
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            for expected in (b"first", b"second"):
                async with opened(client, url) as reply:
                    assert await pieces(reply) == expected
            assert client.repeated == 1

    @staticmethod
    @on_both_loops
    async def test_never_repeated_when_the_request_must_not_be() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.ok(b"first")
            await peer.request()

        async with raw_server(script) as url, http_client() as client:
            async with opened(client, url) as reply:
                await pieces(reply)
            with pytest.raises(ConnectionLost):
                async with opened(client, url, repeatable=False):
                    pass

    @staticmethod
    @on_both_loops
    async def test_the_deadline_holds_for_the_body() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(HEAD + chunk(b"then nothing"))
            await peer.gone()

        async def held(client: HttpClient, url: str, seconds: float) -> bool:
            """Whether the head came in that time, which on a busy machine it may not; the body did not."""
            try:
                async with opened(client, url, timeout=seconds) as reply:
                    with pytest.raises(ReadTimeout):
                        await pieces(reply)
            except (ConnectTimeout, ReadTimeout):
                return False
            return True

        async with raw_server(script) as url, http_client() as client:
            seconds = 0.2
            while not await held(client, url, seconds):
                seconds *= 2

    @staticmethod
    @on_both_loops
    async def test_broken_framing() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(HEAD + b"zz\r\nwhat")
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            with pytest.raises(ProtocolError):
                async with opened(client, url) as reply:
                    await pieces(reply)

    @staticmethod
    @on_both_loops
    async def test_nobody_there() -> None:
        async with raw_server(lambda peer: peer.gone()) as url:
            pass
        async with http_client() as client:
            with pytest.raises(ConnectFailed):
                async with opened(client, url):
                    pass


class TestLeaving:
    @staticmethod
    @on_both_loops
    async def test_leaving_early_closes_the_connection_and_frees_its_place() -> None:
        gone = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                peer.say(HEAD + chunk(b"a"))
                await peer.gone()
                gone.set()
            else:
                peer.ok(b"next")

        async with raw_server(script) as url, http_client(limit=1) as client:
            async with opened(client, url) as reply:
                assert await anext(reply) == b"a"
            await gone.wait()
            with pytest.raises(HttpError):
                await anext(reply)
            async with opened(client, url) as reply:  # of limit 1: the first one's place is free
                assert await pieces(reply) == b"next"

    @staticmethod
    @on_both_loops
    async def test_a_cancelled_reader_closes_the_connection() -> None:
        gone = asyncio.Event()
        reading = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(HEAD + chunk(b"a"))
            await peer.gone()
            gone.set()

        async def read(client: HttpClient, url: str) -> None:
            async with opened(client, url) as reply:
                async for _ in reply:
                    reading.set()

        async with raw_server(script) as url, http_client() as client:
            task = asyncio.ensure_future(read(client, url))
            await reading.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await gone.wait()

    @staticmethod
    @on_both_loops
    async def test_closing_the_client_ends_streams() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(HEAD + chunk(b"a"))
            await peer.gone()

        async with raw_server(script) as url:
            client = HttpClient()
            async with opened(client, url) as reply:
                await anext(reply)
                await client.close()
                with pytest.raises(ConnectionLost):
                    await anext(reply)


class TestBackPressure:
    @staticmethod
    @on_both_loops
    async def test_a_slow_reader_holds_the_server_back_and_loses_nothing() -> None:
        total = 64 << 20
        piece = bytes(range(256)) * 256
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
            while sent < total:
                peer.say(piece)
                sent += len(piece)
                await peer.writer.drain()
            await peer.request()
            peer.ok(b"next")

        async with raw_server(script) as url, http_client() as client:
            async with opened(client, url) as reply:
                first = await anext(reply)
                before = -1
                while before != sent:  # until the server is held back
                    before = sent
                    for _ in range(20):
                        await asyncio.sleep(0.001)
                assert sent < total
                assert reply._size <= HIGH_WATER + (1 << 20)
                size = len(first)
                async for part in reply:
                    assert part[0] == size % 256
                    size += len(part)
                assert size == total
            async with opened(client, url) as reply:  # the connection is read again after a pause
                assert await pieces(reply) == b"next"
            assert client.opened == 1
