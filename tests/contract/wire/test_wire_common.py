"""What every server fulfils (contract 1.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.wire_client import Target

pytestmark = pytest.mark.contract

REQUIRED = {"resources": "/verify", "agent": "/run", "model": "/v1/responses"}


def alive(target: Target) -> None:
    reply = target.wire().get("/")
    assert (reply.status, reply.json()) == (200, {"status": "ok"})


def nothing_there(target: Target) -> None:
    for path in ("/no/such/path", "/verify/more"):
        reply = target.wire().get(path)
        assert (reply.status, reply.json()) == (404, {"detail": "Not Found"})


def rollout_prefix(target: Target) -> None:
    assert target.wire().get("/ng-rollout/7-2/").json() == {"status": "ok"}


def health(target: Target) -> None:
    wire = target.wire()
    assert wire.get("/healthz").status == 200
    ready = wire.get("/readyz")
    assert (ready.status, ready.json()) == (200, {"status": "ready"})
    metrics = wire.get("/metrics")
    assert metrics.status == 200
    assert "# TYPE kubegym_" in metrics.text
    document = wire.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert document["paths"]
    page = wire.get("/docs")
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")


def wrong_method(target: Target) -> None:
    reply = target.wire().get("/healthz/../healthz")
    assert reply.status in (200, 404)
    reply = target.wire().call("POST", "/metrics", {})
    assert reply.status in (404, 405)
    assert "detail" in reply.json()


EVERY: list[Callable[[Target], None]] = [alive, nothing_there]
KUBEGYM = [health, rollout_prefix, wrong_method]


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.__name__)
def test_resources(resources: Target, rule: Callable[[Target], None]) -> None:
    rule(resources)


@pytest.mark.parametrize("rule", KUBEGYM, ids=lambda rule: rule.__name__)
def test_our_resources(our_resources: Target, rule: Callable[[Target], None]) -> None:
    rule(our_resources)


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.__name__)
def test_agent(agent: Target, rule: Callable[[Target], None]) -> None:
    rule(agent)


@pytest.mark.parametrize("rule", KUBEGYM, ids=lambda rule: rule.__name__)
def test_our_agent(our_agent: Target, rule: Callable[[Target], None]) -> None:
    rule(our_agent)


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.__name__)
def test_model(model: Target, rule: Callable[[Target], None]) -> None:
    rule(model)


@pytest.mark.parametrize("rule", KUBEGYM, ids=lambda rule: rule.__name__)
def test_our_model(our_model: Target, rule: Callable[[Target], None]) -> None:
    rule(our_model)


def not_json(target: Target, path: str) -> None:
    for body in (b"{", b"", b"\xff", b"[" * 2000, b"NaN", b"[]", b"1", b'"text"', b"null"):
        reply = target.wire().post(path, body)
        assert reply.status == 422, body
        detail = reply.json()["detail"]
        assert all({"type", "loc", "msg"} <= problem.keys() for problem in detail)


def test_no_json_for_resources(our_resources: Target) -> None:
    for path in ("/seed_session", "/verify", "/increment_counter"):
        not_json(our_resources, path)


def test_no_json_for_agents(our_agent: Target) -> None:
    for path in ("/run", "/v1/responses"):
        not_json(our_agent, path)


def test_no_json_for_models(our_model: Target) -> None:
    for path in ("/v1/responses", "/v1/chat/completions"):
        not_json(our_model, path)
    # An Anthropic client gets its own form of error, with FastAPI's beside it.
    reply = our_model.wire().post("/v1/messages", b"{")
    assert reply.status == 422
    assert "detail" in reply.json()
