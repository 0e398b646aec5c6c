"""Which header lines a hop hands on."""

from __future__ import annotations

import pytest

from kubegym.http.headers import NEVER, end_to_end, lines

pytestmark = pytest.mark.unit


def test_what_means_the_message_goes_on_in_order_and_spelling() -> None:
    pairs = [(b"X-Request-Id", b"7"), (b"traceparent", b"00-1"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    assert end_to_end(pairs) == pairs


@pytest.mark.parametrize("name", sorted(NEVER))
def test_what_means_the_connection_or_the_frame_does_not(name: bytes) -> None:
    assert end_to_end([(name.title(), b"close"), (b"a", b"b")]) == [(b"a", b"b")]


def test_what_the_connection_names_does_not_either() -> None:
    pairs = [(b"Connection", b"keep-alive, X-Hop"), (b"x-hop", b"1"), (b"x-end", b"2")]
    assert end_to_end(pairs) == [(b"x-end", b"2")]


def test_lines() -> None:
    assert lines([(b"a", b"1"), (b"b", b"2")]) == b"a: 1\r\nb: 2\r\n"
