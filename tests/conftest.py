"""What every tier shares: markers by folder, deterministic properties, golden files, and no way out of the machine."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("unit", "golden", "contract", "escape", "chaos", "scale", "cluster", "node")

hypothesis.settings.register_profile("kubegym", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kubegym")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` writes golden files instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    """Tests reach this machine only, and see no key of whoever runs them."""
    sys.addaudithook(_refuse_the_network)
    # looptime asks for a loop in sync tests, too. With one said to be absent it goes on; otherwise asyncio would make
    # one that nobody closes.
    asyncio.set_event_loop(None)
    for name in [name for name in os.environ if name == "KUBEGYM_API_KEY" or name.startswith(("OPENAI_", "AWS_"))]:
        del os.environ[name]


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple):  # a Unix socket
        return
    host = str(address[0])
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise AssertionError(f"a test tried to reach {host}; servers of tests listen on 127.0.0.1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test under ``tests/<tier>/`` belongs to that tier, one beside an environment to ``unit``."""
    for item in items:
        folders = item.path.relative_to(ROOT).parts if item.path.is_relative_to(ROOT) else ()
        tier = folders[1] if len(folders) > 2 and folders[0] == "tests" else "unit"
        if tier in TIERS and not any(item.get_closest_marker(name) for name in TIERS):
            item.add_marker(tier)


class Golden:
    """A committed file that says what some output has to be, byte for byte."""

    def __init__(self, folder: Path, update: bool) -> None:
        self._folder = folder
        self._update = update

    def check(self, name: str, actual: str | bytes) -> None:
        """Compare with ``files/<name>`` beside the test, or write it under ``--update-golden``."""
        path = self._folder / name
        data = actual.encode() if isinstance(actual, str) else actual
        if self._update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return
        if not path.exists():
            pytest.fail(f"{path.relative_to(ROOT)} is missing; --update-golden writes it")
        assert data.decode() == path.read_text(encoding="utf-8"), f"{path.relative_to(ROOT)} differs; --update-golden"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Golden files in the folder ``files`` beside the test module."""
    return Golden(request.path.parent / "files", request.config.getoption("--update-golden"))
