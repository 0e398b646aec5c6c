"""Think tags: how models without a reasoning parser mark what they think."""

from __future__ import annotations

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"


def split_thoughts(text: str) -> tuple[str, str]:
    """``(thoughts, rest)`` of a text with think tags; nothing is stripped.

    A closing tag without an opening one ends thoughts that the chat template opened; an opening one without a closing
    one, at the start of the text, was cut off.
    """
    thoughts: list[str] = []
    opening, closing = text.find(OPEN_TAG), text.find(CLOSE_TAG)
    if closing >= 0 and (opening < 0 or closing < opening):
        thoughts.append(text[:closing])
        text = text[closing + len(CLOSE_TAG) :]
        opening = text.find(OPEN_TAG)
    rest: list[str] = []
    while opening >= 0:
        closing = text.find(CLOSE_TAG, opening)
        if closing < 0:
            if not "".join(rest).strip() and not text[:opening].strip():
                thoughts.append(text[opening + len(OPEN_TAG) :])
                text = text[:opening]
            break
        rest.append(text[:opening])
        thoughts.append(text[opening + len(OPEN_TAG) : closing])
        text = text[closing + len(CLOSE_TAG) :]
        opening = text.find(OPEN_TAG)
    rest.append(text)
    return "\n".join(thoughts), "".join(rest)
