"""Draws the pictures: numbers in coloured boxes, as PNG files; no library, the same bytes everywhere."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

COLOURS = {
    "red": (200, 30, 30),
    "green": (0, 110, 50),
    "blue": (30, 60, 190),
    "purple": (120, 30, 140),
    "orange": (200, 95, 0),
    "brown": (100, 60, 30),
    "black": (20, 20, 20),
    "grey": (110, 110, 110),
}
"""Colours of boxes, all dark enough for white digits."""

_COLUMNS, _DOT, _WIDTH, _HEIGHT, _GAP = 3, 6, 96, 48, 8
_DIGITS = (
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111",
)  # fmt: skip
_WHITE = len(COLOURS)


def png(boxes: Sequence[tuple[str, int]]) -> bytes:
    """A picture with a box for each colour and number, three in a row."""
    lines = -(-len(boxes) // _COLUMNS)
    width, height = _COLUMNS * (_WIDTH + _GAP) + _GAP, lines * (_HEIGHT + _GAP) + _GAP
    pixels = [bytearray([_WHITE]) * width for _ in range(height)]
    for place, (colour, number) in enumerate(boxes):
        row, column = divmod(place, _COLUMNS)
        left, top = _GAP + column * (_WIDTH + _GAP), _GAP + row * (_HEIGHT + _GAP)
        _fill(pixels, left, top, _WIDTH, _HEIGHT, list(COLOURS).index(colour))
        text = str(number)
        start = left + (_WIDTH - (4 * len(text) - 1) * _DOT) // 2
        for position, digit in enumerate(text):
            _draw(pixels, start + 4 * _DOT * position, top + (_HEIGHT - 5 * _DOT) // 2, int(digit))
    return _encode(pixels)


def _draw(pixels: list[bytearray], left: int, top: int, digit: int) -> None:
    for place, dot in enumerate(_DIGITS[digit]):
        if dot == "1":
            _fill(pixels, left + place % 3 * _DOT, top + place // 3 * _DOT, _DOT, _DOT, _WHITE)


def _fill(pixels: list[bytearray], left: int, top: int, width: int, height: int, colour: int) -> None:
    for line in pixels[top : top + height]:
        line[left : left + width] = bytes([colour]) * width


def _encode(pixels: list[bytearray]) -> bytes:
    """Four bits a pixel, with a palette; not compressed, because zlib's versions compress differently."""
    palette = b"".join(bytes(colour) for colour in [*COLOURS.values(), (255, 255, 255)])
    packed = b"".join(b"\0" + bytes(a << 4 | b for a, b in zip(line[::2], line[1::2], strict=True)) for line in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 4, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", _stored(packed)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _stored(data: bytes) -> bytes:
    blocks = [data[start : start + 65_535] for start in range(0, len(data), 65_535)]
    body = b"".join(
        struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block for block in blocks
    )
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))
