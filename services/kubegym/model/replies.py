"""What a model server answers where a call failed, and with chat replies of others. Pure."""

from __future__ import annotations

import math
from typing import Any

import orjson

from kubegym.core.errors import ModelError
from kubegym.core.tokens import Runs, told_runs
from kubegym.core.wire import FAILURE_HEADER, POLICY_RUNS_HEADER, POLICY_VERSION_HEADER
from kubegym.http.server import Reply
from kubegym.model.errors import (
    ModelOverloaded,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnavailable,
    RequestUnsupported,
)

EVENTS = b"text/event-stream; charset=utf-8"
_ANTHROPIC = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}


def status_of(error: ModelError) -> int:
    """The status to answer with.

    What the upstream said of the request (4xx, 429) is passed on; its own trouble is 502, 503 when it is overloaded,
    504 when it is late, so that callers can tell whether to try again.
    """
    if isinstance(error, RequestUnsupported):
        return 422
    if isinstance(error, ModelTimeout):
        return 504
    if isinstance(error, ModelOverloaded):
        return 429 if error.status == 429 else 503
    if isinstance(error, ModelUnavailable | ModelReplyInvalid):
        return 502
    return error.status if error.status is not None and 400 <= error.status < 600 else 502


def failure_reply(error: ModelError, *, anthropic: bool = False) -> Reply:
    """The answer to a call that failed, readable for clients of OpenAI, FastAPI, Anthropic (if so) and our own.

    Our own find the failure under ``kubegym.failure``, announced by ``x-kubegym-failure``.
    """
    status = status_of(error)
    failure = error.failure(0).to_dict()
    del failure["attempt"]
    body: dict[str, Any] = {
        "detail": error.message,
        "error": {"message": error.message, "type": error.reason, "param": None, "code": status},
        "kubegym": {"failure": failure},
    }
    if anthropic:
        body["type"] = "error"
        body["error"]["type"] = _anthropic_type(status)
    headers = [(FAILURE_HEADER, b"1")]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
    return Reply(orjson.dumps(body), status, headers=headers)


def _anthropic_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status == 503:
        return "overloaded_error"
    return _ANTHROPIC.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def version_headers(version: int | None, runs: Runs = ()) -> list[tuple[bytes, bytes]]:
    """The headers that tell the policy version, where it is known, and runs, where there are several."""
    lines = [] if version is None else [(POLICY_VERSION_HEADER, b"%d" % version)]
    return lines if len(runs) < 2 else [*lines, (POLICY_RUNS_HEADER, orjson.dumps(told_runs(runs)))]


def overflow_chat(model: str, created: int) -> dict[str, Any]:
    """The chat completion for a conversation that no longer fits: empty and cut short (contract 6)."""
    message = {"role": "assistant", "content": ""}
    return {
        "id": f"chatcmpl-overflow-{created}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
