"""The examples of docs/contract.md, in their order, against servers as the page starts them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.wire_client import Wire
from testbed.wire_targets import Fleet, server

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = re.compile(r"^```http\nPOST (\w+) (\S+)\n(.*?)^```\n```http\n(\d+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANYTHING = "..."


def examples() -> list[tuple[str, str, Any, int, Any]]:
    """Server, path, body, status and reply of each."""
    page = (ROOT / "docs/contract.md").read_text(encoding="utf-8")
    found = EXAMPLE.findall(page)
    assert len(found) * 2 == page.count("```http\n"), "every block is part of an example"
    return [(kind, path, json.loads(body), int(status), json.loads(reply)) for kind, path, body, status, reply in found]


@pytest.fixture
def wires(fleet: Fleet) -> Iterator[dict[str, Wire]]:
    """Somebody at each of the three servers."""
    counter = str(ROOT / "environments/example_session_state")
    model = fleet.url("model")
    with server("resources", counter) as resources, server("agent", resources.url, model) as agent:
        yield {"resources": Wire(resources.url), "agent": Wire(agent.url), "model": Wire(model)}


def matches(actual: Any, shown: Any) -> bool:
    """Whether a reply is the one shown, with nothing beside it but ``mcp``, which the page starts without."""
    if shown == ANYTHING:
        return True
    if isinstance(shown, dict):
        if not isinstance(actual, dict) or not shown.keys() <= actual.keys():
            return False
        beside = actual.keys() - shown.keys() - {"mcp"}
        return not beside and all(matches(actual[name], value) for name, value in shown.items())
    if isinstance(shown, list):
        return isinstance(actual, list) and len(actual) == len(shown) and all(map(matches, actual, shown))
    return bool(actual == shown)


def test_the_page_shows_what_happens(wires: dict[str, Wire]) -> None:
    shown = examples()
    assert {kind for kind, *_ in shown} == wires.keys()
    for kind, path, body, status, reply in shown:
        answer = wires[kind].post(path, body)
        assert answer.status == status, (path, answer.text)
        assert matches(answer.json(), reply), (path, answer.text)
