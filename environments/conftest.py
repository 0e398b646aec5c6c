"""Lets the tests of an environment run alone: ``pytest environments/arithmetic``."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Start without an event loop, as ``tests/conftest.py`` does and for its reason: nobody would close it."""
    asyncio.set_event_loop(None)
