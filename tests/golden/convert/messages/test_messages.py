"""Each folder of ``files`` is a case: ``request.json`` in, ``params.json`` and ``chat_request.json`` out;
``chat_reply.json`` in, ``message.json`` and ``events.txt`` out."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from kubegym.model.convert import chat_request, message_of_response, params_of_messages, read_completion
from kubegym.model.streaming import chat_events, message_events, response_events

pytestmark = pytest.mark.golden

CASES = sorted((Path(__file__).parent / "files").iterdir())


def _written(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, golden) -> None:
    request = orjson.loads((case / "request.json").read_bytes())
    params = params_of_messages(request)
    golden.check(f"{case.name}/params.json", _written(params))
    golden.check(f"{case.name}/chat_request.json", _written(chat_request(params, "policy")))
    reply = orjson.loads((case / "chat_reply.json").read_bytes())
    completion = read_completion(reply, params, "0123456789abcdef")
    message = message_of_response(completion.response, completion.stop)
    golden.check(f"{case.name}/message.json", _written(message))
    golden.check(f"{case.name}/events.txt", message_events(message))
    golden.check(f"{case.name}/response_events.txt", response_events(completion.response))
    golden.check(f"{case.name}/chat_events.txt", chat_events(reply, include_usage=True))
