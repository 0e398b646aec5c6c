"""Each folder of ``files`` is a case: ``params.json`` in, ``chat_request.json`` out; ``chat_reply.json`` in,
``response.json`` out."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from kubegym.model.convert import chat_request, read_completion

pytestmark = pytest.mark.golden

CASES = sorted((Path(__file__).parent / "files").iterdir())


def _read(path: Path) -> dict:
    return orjson.loads(path.read_bytes())


def _written(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, golden) -> None:
    params = _read(case / "params.json")
    before = _written(params)
    style = "tags" if case.name.endswith("_tags") else "fields"
    golden.check(f"{case.name}/chat_request.json", _written(chat_request(params, "policy", style)))
    if (case / "chat_reply.json").exists():
        reply = _read(case / "chat_reply.json")
        completion = read_completion(reply, params, "0123456789abcdef")
        if completion.tokens is not None:  # as the model server tells them
            completion.response["output"][-1].update(completion.tokens.fields())
        golden.check(f"{case.name}/response.json", _written({"stop": completion.stop, "response": completion.response}))
    assert _written(params) == before, "conversion must not change its input"
