"""What the S3 client makes of answers that a healthy server seldom gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kubegym.core.errors import ConditionalWritesUnsupported, StoreError
from kubegym.core.retry import Backoff
from kubegym.storage import (
    Conflict,
    ObjectStore,
    StoreDenied,
    StoreFull,
    StoreOptions,
    open_store,
    probe_conditional_writes,
)
from testbed.http_script import Answer, Request, ScriptedServer, scripted_server

pytestmark = pytest.mark.contract

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest"}
TRIES = 4
DONE = Answer(200, {"ETag": '"made"'})


def refusal(status: int, code: str, message: str = "as scripted") -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


def store_at(server: ScriptedServer, credentials: dict[str, str] | None = KEYS) -> ObjectStore:
    options = StoreOptions(
        endpoint=server.url,
        region="us-east-1",
        credentials=credentials,
        retry=Backoff(TRIES, base=0.001, maximum=0.002),
    )
    return open_store("s3://bucket/root", options=options)


def first(answer: Answer, then: Answer, times: int = 1) -> Callable[[Request, int], Answer]:
    return lambda request, before: answer if before < times else then


def always(answer: Answer) -> Callable[[Request, int], Answer]:
    return lambda request, before: answer


BUSY = [refusal(503, "SlowDown"), refusal(500, "InternalError"), refusal(429, "TooManyRequests")]


@pytest.mark.parametrize("busy", BUSY, ids=lambda answer: str(answer.status))
async def test_a_busy_server_is_asked_again(busy: Answer) -> None:
    async with scripted_server(first(busy, DONE, times=2)) as server:
        assert await store_at(server).put("a", b"1") == '"made"'
        assert [(request.method, request.target) for request in server.requests] == [("PUT", "/bucket/root/a")] * 3


@pytest.mark.parametrize("call", ["get", "put", "create", "swap", "delete"])
async def test_asking_again_has_an_end(call: str) -> None:
    arguments: dict[str, Any] = {"put": [b"1"], "create": [b"1"], "swap": [b"1", '"x"']}
    async with scripted_server(always(refusal(503, "SlowDown", "reduce your rate"))) as server:
        with pytest.raises(StoreError, match="SlowDown: reduce your rate") as caught:
            await getattr(store_at(server), call)("a", *arguments.get(call, []))
        assert caught.value.retryable
        assert caught.value.reason == "ObjectStoreUnavailable"
        assert len(server.requests) == TRIES


async def test_a_dropped_connection_is_retried_where_that_is_safe() -> None:
    async with scripted_server(first(Answer(0), DONE)) as server:
        await store_at(server).put("a", b"1")
        assert len(server.requests) == 2


def held(etag: str) -> Answer:
    return Answer(200, {"ETag": etag, "Last-Modified": "Sat, 21 Nov 2026 08:00:00 GMT"})


ABSENT = Answer(404)


@pytest.mark.parametrize("etag", [None, '"x"'], ids=["create", "swap"])
async def test_an_unanswered_conditional_write_is_sent_again(etag: str | None) -> None:
    async with scripted_server(first(Answer(0), DONE)) as server:
        store = store_at(server)
        assert await (store.create("a", b"1") if etag is None else store.swap("a", b"1", etag)) == '"made"'
        assert [request.method for request in server.requests] == ["PUT", "PUT"]


@pytest.mark.parametrize("etag", [None, '"x"'], ids=["create", "swap"])
@pytest.mark.parametrize("unanswered", [Answer(0), refusal(409, "ConditionalRequestConflict")], ids=["dropped", "409"])
async def test_an_unclear_conditional_write_conflicts_when_the_object_has_changed(
    etag: str | None, unanswered: Answer
) -> None:
    """By this very call, perhaps: the caller reads, and looks for its nonce."""

    def answer(request: Request, before: int) -> Answer:
        if request.method == "HEAD":
            return held('"made"')
        return refusal(412, "PreconditionFailed") if before and etag else unanswered

    async with scripted_server(answer) as server:
        store = store_at(server)
        with pytest.raises(Conflict):
            await (store.create("a", b"1") if etag is None else store.swap("a", b"1", etag))


@pytest.mark.parametrize(("etag", "unchanged"), [(None, ABSENT), ('"x"', held('"x"'))], ids=["create", "swap"])
async def test_unanswered_conditional_writes_have_an_end(etag: str | None, unchanged: Answer) -> None:
    def answer(request: Request, before: int) -> Answer:
        return unchanged if request.method == "HEAD" else Answer(0)

    async with scripted_server(answer) as server:
        store = store_at(server)
        with pytest.raises(StoreError) as caught:
            await (store.create("a", b"1") if etag is None else store.swap("a", b"1", etag))
        assert caught.value.retryable
        assert [request.method for request in server.requests] == ["PUT"] * TRIES + ["HEAD"]


async def test_a_create_beside_another_s_is_tried_again() -> None:
    """S3 answers 409 to a create while another write of the key is under way, and nothing has been written yet."""

    def answer(request: Request, before: int) -> Answer:
        if request.method == "HEAD":
            return Answer(404)
        return refusal(409, "ConditionalRequestConflict") if before == 0 else DONE

    async with scripted_server(answer) as server:
        assert await store_at(server).create("a", b"1") == '"made"'
        assert [request.method for request in server.requests] == ["PUT", "HEAD", "PUT"]
        assert server.requests[2].headers["if-none-match"] == "*"


async def test_creates_beside_others_have_an_end() -> None:
    def answer(request: Request, before: int) -> Answer:
        return Answer(404) if request.method == "HEAD" else refusal(409, "ConditionalRequestConflict")

    async with scripted_server(answer) as server:
        with pytest.raises(StoreError) as caught:
            await store_at(server).create("a", b"1")
        assert caught.value.retryable
        assert not isinstance(caught.value, Conflict)
        assert [request.method for request in server.requests] == ["PUT", "HEAD"] * TRIES


async def test_a_swap_beside_another_s_is_tried_again() -> None:
    async with scripted_server(first(refusal(409, "ConditionalRequestConflict"), DONE)) as server:
        assert await store_at(server).swap("a", b"1", '"x"') == '"made"'
        assert [request.headers["if-match"] for request in server.requests] == ['"x"', '"x"']


async def test_swaps_beside_others_have_an_end_that_is_no_verdict() -> None:
    async with scripted_server(always(refusal(409, "ConditionalRequestConflict"))) as server:
        with pytest.raises(StoreError) as caught:
            await store_at(server).swap("a", b"1", '"x"')
        assert caught.value.retryable
        assert not isinstance(caught.value, Conflict)
        assert len(server.requests) == TRIES


async def test_a_swap_of_an_absent_object_conflicts() -> None:
    async with scripted_server(always(refusal(404, "NoSuchKey"))) as server:
        with pytest.raises(Conflict):
            await store_at(server).swap("a", b"1", '"x"')


@pytest.mark.parametrize(
    ("answer", "expected", "reason"),
    [
        (refusal(403, "AccessDenied", "not yours"), StoreDenied, "ObjectStoreDenied"),
        (refusal(401, "Unauthorized"), StoreDenied, "ObjectStoreDenied"),
        (refusal(403, "SignatureDoesNotMatch"), StoreDenied, "ObjectStoreDenied"),
        (refusal(400, "ExpiredToken"), StoreDenied, "ObjectStoreDenied"),
        (refusal(400, "InvalidRequest"), StoreError, "ObjectStoreUnavailable"),
        (refusal(404, "NoSuchBucket"), StoreError, "BucketNotFound"),
        (refusal(507, "XMinioStorageFull", "disk is full"), StoreFull, "ObjectStoreFull"),
        (refusal(400, "QuotaExceeded"), StoreFull, "ObjectStoreFull"),
        (refusal(501, "NotImplemented"), StoreError, "NotSupported"),
        (refusal(409, "ObjectParentIsFile"), StoreError, "ObjectStoreUnavailable"),
    ],
    ids=lambda value: (
        f"{value.status}-{value.body.split(b'<Code>')[1].split(b'<')[0].decode()}" if isinstance(value, Answer) else ""
    ),
)
@pytest.mark.parametrize("call", ["get", "put", "create", "swap"])
async def test_refusals_are_told_apart(call: str, answer: Answer, expected: type[StoreError], reason: str) -> None:
    arguments: dict[str, Any] = {"put": [b"1"], "create": [b"1"], "swap": [b"1", '"x"']}

    def scripted(request: Request, before: int) -> Answer:
        return Answer(404) if request.method == "HEAD" else answer

    async with scripted_server(scripted) as server:
        with pytest.raises(expected) as caught:
            await getattr(store_at(server), call)("a", *arguments.get(call, []))
        assert type(caught.value) is expected
        assert caught.value.reason == reason
        assert not caught.value.retryable
        assert "testtest" not in str(caught.value)
        assert "\n" not in caught.value.message


async def test_a_server_without_conditional_writes_is_refused() -> None:
    for server_says in (DONE, refusal(501, "NotImplemented", "If-None-Match is not implemented")):
        async with scripted_server(always(server_says)) as server:
            with pytest.raises(ConditionalWritesUnsupported, match="s3://bucket/root"):
                await probe_conditional_writes(store_at(server))


async def test_the_probe_says_when_it_is_not_allowed_to_write() -> None:
    async with scripted_server(always(refusal(403, "AccessDenied", "not yours"))) as server:
        with pytest.raises(StoreDenied, match="do not allow reading, writing and deleting") as caught:
            await probe_conditional_writes(store_at(server))
        assert "not yours" in str(caught.value)


async def test_given_credentials_are_used_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "surroundings")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "surroundings")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "surroundings")
    async with scripted_server(always(DONE)) as server:
        await store_at(server).put("a", b"1")
        headers = server.requests[0].headers
        assert "Credential=test/" in headers["authorization"]
        assert "x-amz-security-token" not in headers
        await store_at(server, {**KEYS, "AWS_SESSION_TOKEN": "given"}).put("a", b"1")
        assert server.requests[1].headers["x-amz-security-token"] == "given"
        await store_at(server, None).put("a", b"1")
        assert "Credential=surroundings/" in server.requests[2].headers["authorization"]
        assert server.requests[2].headers["x-amz-security-token"] == "surroundings"


async def test_a_failing_part_ends_the_writer() -> None:
    def answer(request: Request, before: int) -> Answer:
        if request.method == "POST":
            started = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            return Answer(200, body=started.encode())
        return Answer(204) if request.method == "DELETE" else refusal(403, "AccessDenied")

    async def write(store: ObjectStore) -> None:
        async with store.writer("a") as writer:
            for _ in range(256):
                await writer.write(b"x" * (1 << 20))

    async with scripted_server(answer) as server:
        with pytest.raises(StoreDenied):
            await write(store_at(server))
        assert len(server.requests) < 32, "the writer went on writing after a part had failed"
