"""Which header lines a hop hands on (RFC 9110, section 7.6.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

Pair = tuple[bytes, bytes]
"""Name and value of a header line."""

OF_A_CONNECTION = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
"""Lines that mean the connection they come over, not the message."""
OF_THE_FRAME = frozenset({b"host", b"content-length", b"expect"})
"""Lines that whoever sends a message writes anew."""
NEVER = OF_A_CONNECTION | OF_THE_FRAME
_PLAIN = frozenset({b"keep-alive", b"close"})


def end_to_end(pairs: Sequence[Pair], drop: Set[bytes] = NEVER) -> list[Pair]:
    """The lines that go on, in their order and spelling.

    Args:
        pairs: as they came; names in any case.
        drop: names in lower case that do not go on; ``NEVER`` and more.
    """
    kept: list[Pair] = []
    named: set[bytes] | None = None
    for pair in pairs:
        name = pair[0].lower()
        if name not in drop:
            kept.append(pair)
        elif name == b"connection" and (told := pair[1].strip().lower()) not in _PLAIN:
            named = (named or set()) | {word.strip() for word in told.split(b",")}
    return kept if named is None else [pair for pair in kept if pair[0].lower() not in named]


def lines(pairs: Iterable[Pair]) -> bytes:
    """The lines as a request or reply has them."""
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])
