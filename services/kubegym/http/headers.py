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
    kept = [pair for pair in pairs if pair[0].lower() not in drop]
    for name, value in pairs:
        if len(name) == 10 and name.lower() == b"connection" and (told := value.strip().lower()) not in _PLAIN:
            named = {word.strip() for word in told.split(b",")}
            kept = [pair for pair in kept if pair[0].lower() not in named]
    return kept


def lines(pairs: Iterable[Pair]) -> bytes:
    """The lines as a request or reply has them."""
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])
