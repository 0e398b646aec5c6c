from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.http import (
    BodyTooLarge,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    HttpClient,
    HttpError,
    Origin,
    ProtocolError,
    ReadTimeout,
    Response,
    Url,
)
from testbed.raw_server import Peer, on_both_loops, raw_server

pytestmark = pytest.mark.unit


@asynccontextmanager
async def http_client(**options):
    client = HttpClient(**options)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: HttpClient, url: str, body: bytes = b"{}", timeout: float = 30.0, **options) -> Response:
    return await client.request(b"POST", Url(url), b"content-type: application/json\r\n", body, timeout, **options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)


async def echo(peer: Peer) -> None:
    while True:
        _, body = await peer.request()
        peer.ok(body)


class TestUrl:
    def test_parts(self) -> None:
        url = Url("https://api.example.org/v1?api-version=2")
        assert url.origin == Origin("https", "api.example.org", 443)
        assert (url.target, url.authority) == (b"/v1?api-version=2", b"api.example.org")
        below = url / "chat/completions"
        assert below.target == b"/v1/chat/completions?api-version=2"
        assert below.shown == "https://api.example.org/v1/chat/completions"

    def test_credentials_become_a_header_and_are_never_shown(self) -> None:
        url = Url("http://user:p%40ss@host:8000/v1/")
        assert url.authorization == b"Basic dXNlcjpwQHNz"
        assert url.authority == b"host:8000"
        assert "p%40ss" not in repr(url / "models")
        assert (url / "models").shown == "http://host:8000/v1/models"

    def test_ipv6(self) -> None:
        url = Url("http://[::1]:8000/v1")
        assert url.origin == Origin("http", "::1", 8000)
        assert url.authority == b"[::1]:8000"
        assert str(url.origin) == "http://[::1]:8000"

    @pytest.mark.parametrize(
        "text", ["", "host:8000/v1", "ftp://host", "http://", "http://host:port", "http://h/a b", "http://h/\u00e4"]
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidSpec):
            Url(text)

    def test_a_refusal_keeps_the_password_to_itself(self) -> None:
        with pytest.raises(InvalidSpec) as caught:
            Url("ftp://me:secret@host/v1")
        assert "secret" not in str(caught.value)


class TestExchange:
    @staticmethod
    @on_both_loops
    async def test_request_on_the_wire_and_reply() -> None:
        seen: list[tuple[bytes, bytes]] = []

        async def script(peer: Peer) -> None:
            seen.append(await peer.request())
            peer.say(b"HTTP/1.1 201 Created\r\nX-One: 1\r\nRetry-After: 7\r\ncontent-length: 2\r\n\r\nhi")
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            reply = await ask(client, f"{url}/v1/x?y=1", b"body")
        assert (reply.status, reply.body, reply.header(b"retry-after")) == (201, b"hi", b"7")
        assert reply.header(b"absent") is None
        head, body = seen[0]
        host = url.removeprefix("http://").encode()
        assert head == (
            b"POST /v1/x?y=1 HTTP/1.1\r\nHost: %b\r\ncontent-type: application/json\r\nContent-Length: 4\r\n\r\n" % host
        )
        assert body == b"body"

    @staticmethod
    @on_both_loops
    async def test_one_connection_serves_one_request_after_the_other() -> None:
        async with raw_server(echo) as url, http_client() as client:
            for number in range(20):
                assert (await ask(client, url, b"%d" % number)).body == b"%d" % number
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_many_at_once_each_get_their_own_reply() -> None:
        async with raw_server(echo) as url, http_client() as client:
            bodies = [b"x" * number for number in range(200)]
            replies = await asyncio.gather(*(ask(client, url, body) for body in bodies))
            assert [reply.body for reply in replies] == bodies

    @staticmethod
    @on_both_loops
    async def test_chunked_body_in_pieces_with_trailers() -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                whole = head + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nt: 1\r\n\r\n"
                for index in range(len(whole)):
                    peer.say(whole[index : index + 1])
                    await asyncio.sleep(0)

        async with raw_server(script) as url, http_client() as client:
            assert [(await ask(client, url)).body for _ in range(2)] == [b"abcdefg"] * 2
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_body_that_ends_with_the_connection() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(b"HTTP/1.1 200 OK\r\n\r\nall of it")

        async with raw_server(script) as url, http_client() as client:
            assert [(await ask(client, url)).body for _ in range(2)] == [b"all of it"] * 2
            assert client.opened == 2

    @staticmethod
    @on_both_loops
    async def test_http_1_0_and_connection_close_are_not_kept() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            version = b"1.0" if peer.number == 0 else b"1.1"
            peer.say(b"HTTP/%b 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi" % version)
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            for _ in range(3):
                assert (await ask(client, url)).body == b"hi"
            assert client.opened == 3

    @staticmethod
    @on_both_loops
    async def test_interim_replies_are_skipped() -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
                peer.ok(b"real")

        async with raw_server(script) as url, http_client() as client:
            reply = await ask(client, url)
            assert (reply.status, reply.body, reply.header(b"link")) == (200, b"real", None)

    @staticmethod
    @on_both_loops
    async def test_replies_without_a_body() -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                peer.say(b"HTTP/1.1 204 No Content\r\n\r\n")

        async with raw_server(script) as url, http_client() as client:
            assert [(await ask(client, url)).status for _ in range(2)] == [204, 204]
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_large_bodies_both_ways() -> None:
        async with raw_server(echo) as url, http_client() as client:
            body = bytes(range(256)) * 20_000
            assert (await ask(client, url, body)).body == body
            assert (await ask(client, url, b"small")).body == b"small"


class TestTrouble:
    @staticmethod
    @on_both_loops
    async def test_nothing_listens() -> None:
        async with raw_server(echo) as url:
            pass
        async with http_client() as client:
            with pytest.raises(ConnectFailed, match=r"cannot connect to http://127\.0\.0\.1"):
                await ask(client, url)
            with pytest.raises(ConnectFailed):
                await ask(client, "http://name.invalid/")

    @staticmethod
    @on_both_loops
    async def test_no_reply_in_time_closes_the_connection() -> None:
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            peer.ok(body)
            await peer.request()
            await peer.gone()
            closed.set()

        async with raw_server(script) as url, http_client() as client:
            await ask(client, url)  # from now on there is a connection: the time is the reply's alone
            with pytest.raises(ReadTimeout):
                await ask(client, url, timeout=0.05)
            await closed.wait()
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_a_cancelled_caller_closes_the_connection_and_leaves_the_client_usable() -> None:
        asked, closed = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            if body == b"wait":
                asked.set()
                await peer.gone()
                closed.set()
            else:
                peer.ok(b"fine")
                await peer.gone()

        async with raw_server(script) as url, http_client(limit=1) as client:
            task = asyncio.ensure_future(ask(client, url, b"wait"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()
            assert (await ask(client, url)).body == b"fine"

    @staticmethod
    @on_both_loops
    async def test_closed_within_the_reply() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

        async with raw_server(script) as url, http_client() as client:
            with pytest.raises(ConnectionLost, match="within its reply") as caught:
                await ask(client, url)
            assert not caught.value.before_reply
            assert client.repeated == 0

    @staticmethod
    @on_both_loops
    async def test_closed_without_a_reply_on_a_new_connection_is_not_repeated() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()

        async with raw_server(script) as url, http_client() as client:
            with pytest.raises(ConnectionLost) as caught:
                await ask(client, url)
            assert caught.value.before_reply
            assert (client.opened, client.repeated) == (1, 0)

    @staticmethod
    @on_both_loops
    async def test_a_kept_connection_that_dies_unanswered_is_repeated_once_on_a_new_one() -> None:
        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            peer.ok(body)
            await peer.request()  # Takes the second request and closes.

        async with raw_server(script) as url, http_client() as client:
            assert (await ask(client, url, b"1")).body == b"1"
            assert (await ask(client, url, b"2")).body == b"2"
            assert (client.opened, client.repeated) == (2, 1)

    @staticmethod
    @on_both_loops
    async def test_what_must_not_be_repeated_is_not() -> None:
        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            peer.ok(body)
            await peer.request()

        async with raw_server(script) as url, http_client() as client:
            await ask(client, url)
            with pytest.raises(ConnectionLost):
                await ask(client, url, repeatable=False)
            assert client.repeated == 0

    @staticmethod
    @on_both_loops
    async def test_an_idle_connection_closed_by_the_server_is_not_used() -> None:
        let_go, connections = asyncio.Event(), []

        async def script(peer: Peer) -> None:
            connections.append(peer.number)
            _, body = await peer.request()
            peer.ok(body)
            if peer.number:
                await peer.gone()
            else:
                await let_go.wait()

        async with raw_server(script) as url, http_client() as client:
            await ask(client, url)
            pool = next(iter(client._pools.values()))
            let_go.set()
            await until(lambda: not pool._idle)
            assert pool._open == 0
            await ask(client, url)
            assert (connections, client.repeated) == ([0, 1], 0)

    @staticmethod
    @on_both_loops
    async def test_stale_connections_are_closed_by_us() -> None:
        async with raw_server(echo) as url, http_client(keep_alive=0.02) as client:
            await asyncio.gather(*(ask(client, url) for _ in range(5)))
            pool = next(iter(client._pools.values()))
            await until(lambda: not pool._idle)
            assert pool._open == 0

    @pytest.mark.parametrize(
        "reply",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
        ],
    )
    async def test_not_http(self, reply: bytes) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(reply)
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            with pytest.raises(ProtocolError):
                await ask(client, url)

    @staticmethod
    @on_both_loops
    async def test_bytes_after_the_reply_are_never_taken_for_the_next_one() -> None:
        async def script(peer: Peer) -> None:
            _, body = await peer.request()
            peer.ok(body)
            peer.ok(b"of somebody else")
            await peer.gone()

        async with raw_server(script) as url, http_client() as client:
            for body in (b"1", b"2", b"3"):
                try:
                    reply = await ask(client, url, body)
                except ProtocolError:
                    continue
                assert reply.body == body

    @staticmethod
    @on_both_loops
    async def test_body_above_the_limit() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"a\r\n0123456789\r\n" * 20)
            await peer.gone()

        async with raw_server(script) as url, http_client(max_body=100) as client:
            with pytest.raises(BodyTooLarge) as caught:
                await ask(client, url)
            assert not caught.value.retryable

    @staticmethod
    @on_both_loops
    async def test_no_connection_in_time() -> None:
        async with http_client(connect_timeout=0.05) as client:

            async def never(*args: object, **options: object) -> None:
                await asyncio.get_running_loop().create_future()

            pool = client._new_pool(Origin("http", "127.0.0.1", 9))
            pool._loop = type("Loop", (), {"create_connection": never, "time": asyncio.get_running_loop().time})()
            with pytest.raises(ConnectTimeout):
                await ask(client, "http://127.0.0.1:9")
            assert pool._open == 0


class TestLimit:
    @staticmethod
    @on_both_loops
    async def test_beyond_the_limit_requests_wait_in_order() -> None:
        order: list[bytes] = []

        async def script(peer: Peer) -> None:
            while True:
                _, body = await peer.request()
                order.append(body)
                peer.ok(body)

        async with raw_server(script) as url, http_client(limit=1) as client:
            bodies = [b"%d" % number for number in range(20)]
            replies = await asyncio.gather(*(ask(client, url, body) for body in bodies))
            assert [reply.body for reply in replies] == bodies
            assert order == bodies
            assert client.opened == 1

    @staticmethod
    @on_both_loops
    async def test_waiting_for_a_connection_has_the_requests_deadline() -> None:
        asked = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.gone()

        async with raw_server(script) as url, http_client(limit=1) as client:
            first = asyncio.ensure_future(ask(client, url, timeout=600.0))
            await asked.wait()
            with pytest.raises(ReadTimeout, match="all 1 are in use"):
                await ask(client, url, timeout=0.05)
            assert not first.done()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first

    @staticmethod
    @on_both_loops
    async def test_cancelled_and_failed_requests_lose_no_place() -> None:
        """Whatever the order of cancellations, failures and replies: in the end all places are free again."""

        async def script(peer: Peer) -> None:
            while True:
                _, body = await peer.request()
                number = int(body)
                if number % 5 == 0:
                    return
                if number % 5 == 1:
                    peer.say(b"nonsense")
                    return
                await asyncio.sleep(0.001 * (number % 4))
                peer.ok(body)

        async with raw_server(script) as url, http_client(limit=4) as client:

            async def one(number: int) -> str:
                try:
                    reply = await ask(client, url, b"%d" % number)
                except HttpError as error:
                    return error.reason
                assert reply.body == b"%d" % number
                return "ok"

            tasks = [asyncio.ensure_future(one(number)) for number in range(300)]
            for number, task in enumerate(tasks):
                if number % 7 == 0:
                    asyncio.get_running_loop().call_later(0.0005 * (number % 50), task.cancel)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} <= {str, asyncio.CancelledError}
            assert results.count("ok") > 100
            pool = next(iter(client._pools.values()))
            assert pool._open == len(pool._idle) <= 4
            assert not pool._waiters
            assert (await ask(client, url, b"3")).body == b"3"


class TestClose:
    @staticmethod
    @on_both_loops
    async def test_close_ends_what_is_open_and_refuses_more() -> None:
        asked = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.gone()

        async with raw_server(script) as url:
            client = HttpClient(limit=1)
            busy = asyncio.ensure_future(ask(client, url))
            await asked.wait()
            waiting = asyncio.ensure_future(ask(client, url))
            await asyncio.sleep(0)
            await client.close()
            await client.close()
            for task, error in ((busy, ConnectionLost), (waiting, ConnectFailed)):
                with pytest.raises(error, match="closed"):
                    await task
            with pytest.raises(ConnectFailed, match="closed"):
                await ask(client, url)

    @staticmethod
    @on_both_loops
    async def test_closed_connections_leave_no_garbage() -> None:
        from kubegym.http.connection import Connection

        async with raw_server(echo) as url, http_client() as client:
            await asyncio.gather(*(ask(client, url) for _ in range(10)))
            gc.collect()
            gc.disable()
            try:
                await client.close()
                await asyncio.sleep(0)
                ours = set(client._pools.values())
                left = [thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing._pool in ours]
                assert left == []
            finally:
                gc.enable()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


class TestTls:
    @pytest.mark.parametrize("trusted", [True, False])
    async def test_tls(self, certificate: tuple[str, str], trusted: bool) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = Peer(reader, writer, 0)
            try:
                await echo(peer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(*certificate)
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=serving)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        context = ssl.create_default_context(cafile=certificate[0]) if trusted else None
        async with http_client(ssl_context=context) as client:
            if trusted:
                assert [(await ask(client, url, b"x")).body for _ in range(2)] == [b"x", b"x"]
                assert client.opened == 1
            else:
                with pytest.raises(ConnectFailed, match="certificate"):
                    await ask(client, url)
        server.close()
        await server.wait_closed()
