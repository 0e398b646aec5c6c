"""Reading the letter out of an answer to a multiple-choice question, by NeMo Gym's rules (contract 8.1). Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

from kubegym.verify.text import boxed, peeled

Options = dict[str, str]
"""Upper-case letter -> text of the option."""

MODES = ("strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon", "lenient_answer_colon_md")

_LOCAL_LETTERS = str.maketrans(
    {local: f" {latin}" for alphabet in ("أبجد", "অবডঢ") for local, latin in zip(alphabet, "ABCD", strict=True)}
)
_ONE_CAPITAL = re.compile(r"[^A-Za-z]*([A-Z])[^A-Za-z]*")
_LABEL = re.compile(r"([A-Z])\s*[:).\-]")
_ANSWER_COLON = re.compile(r"answer\s*:\s*(.+)", re.IGNORECASE)
_ANSWER_COLON_MD = re.compile(r"[*_]{0,2}answer[*_]{0,2}\s*:[*_\s]{0,2}(.+)", re.IGNORECASE)
_MARKS = "*_` \t\r\n.,;:"
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_LIST_SEPARATOR = re.compile(r"\s*[/|&,;]\s*|\s+(?:or|and)\s+|\s+", re.IGNORECASE)
_LEADING_LETTER = re.compile(r"([A-Za-z])(?![A-Za-z0-9])")
_LONE_CAPITAL = re.compile(r"\b[A-Z]\b")


def options_of(entries: Sequence[dict[str, str | None]] | None) -> Options:
    """The options of a row that can be chosen: one letter, a text that is not null."""
    return {
        letter.upper(): text
        for entry in entries or ()
        for letter, text in entry.items()
        if len(letter) == 1 and letter.isalpha() and text is not None
    }


def read_answer(
    text: str, options: Options, mode: str, output_regex: str | Sequence[str] = (), answer_prefix: str = ""
) -> str | None:
    """The letter an answer chooses, or None.

    The regular expressions come first, in order; then the mode. ``answer_prefix`` is what the mode
    ``lenient_answer_colon_md`` takes for ``Answer:``, too, for prompts in other languages.
    """
    text = text.strip()
    if not text:
        return None
    for pattern in [output_regex] if isinstance(output_regex, str) else output_regex:
        letter = by_regex(text, pattern, options)
        if letter is not None:
            return letter
    if mode == "lenient_answer_colon":
        return by_answer_colon(text, options)
    if mode == "lenient_answer_colon_md":
        letter = by_marked_answer(text, options, answer_prefix)
        return letter if letter is not None or not answer_prefix else by_box(text, options)
    letter = by_box(text, options)
    return by_boxed_text(text, options) if letter is None and mode == "lenient_boxed" else letter


def by_regex(text: str, pattern: str, options: Options) -> str | None:
    """What the last match captures: any single letter, whether an option has it or not, or an option's text."""
    last = None
    for last in re.finditer(pattern, text, re.IGNORECASE):  # noqa: B007
        pass
    if last is None:
        return None
    groups = [group for group in last.groups() if group]
    captured = _latin(groups[0] if groups else last.group() if last.re.groups == 0 else "").upper()
    if len(captured) == 1 and captured.isalpha():
        return captured
    return _option_with_text(captured, options)


def by_box(text: str, options: Options) -> str | None:
    r"""The last ``\boxed{}`` with nothing but one capital letter, or with a labelled option such as ``C) Paris``."""
    inner = boxed(text)
    if inner is None:
        return None
    inner = peeled(inner)
    match = _ONE_CAPITAL.fullmatch(inner) or _LABEL.match(inner)
    return match.group(1) if match and match.group(1) in options else None


def by_boxed_text(text: str, options: Options) -> str | None:
    r"""The one option whose text occurs inside the last ``\boxed{}``; None where several do."""
    inner = boxed(text)
    if inner is None:
        return None
    candidates = (_normal(inner), _normal(peeled(inner)))
    found = [
        letter
        for letter, option in options.items()
        if _normal(option) and any(_normal(option) in candidate for candidate in candidates)
    ]
    return found[0] if len(found) == 1 else None


def by_answer_colon(text: str, options: Options) -> str | None:
    """What follows the first ``answer:`` on its line: an option's letter or its text, nothing else."""
    match = _ANSWER_COLON.search(text)
    if match is None:
        return None
    answer = peeled(match.group(1)).strip()
    letter = answer.upper()
    return letter if len(answer) == 1 and letter in options else _option_with_text(answer, options)


def by_marked_answer(text: str, options: Options, prefix: str = "") -> str | None:
    """The last ``Answer:``, with or without Markdown's marks, whose text names one option."""
    text = unicodedata.normalize("NFKC", text)
    found = [(match.start(), match.group(1)) for match in _ANSWER_COLON_MD.finditer(text)]
    if prefix:
        own = re.compile(re.escape(unicodedata.normalize("NFKC", prefix)) + r"\s*", re.IGNORECASE)
        found += [(match.start(), text[match.end() :].partition("\n")[0]) for match in own.finditer(text)]
    for _, payload in sorted(found, key=itemgetter(0), reverse=True):
        letter = _named_option(payload, options)
        if letter is not None:
            return letter
    return None


def _named_option(payload: str, options: Options) -> str | None:
    """The option that a text after ``Answer:`` names: by a leading letter, else by its last capital alone."""
    payload = _latin(payload).strip(_MARKS)
    if _lists_options(payload, options):
        return None
    leading = payload if len(payload) == 1 else None
    match = _LEADING_LETTER.match(payload)
    if leading is None and match:
        leading = match.group(1)
    if leading is None:
        capitals = _LONE_CAPITAL.findall(payload)
        leading = capitals[-1] if capitals else ""
    return leading.upper() if leading.upper() in options else None


def _lists_options(payload: str, options: Options) -> bool:
    """Whether different options stand side by side: ``A or B``, ``A/B``, ``A, B``."""
    letters = [match for match in _LONE_LETTER.finditer(payload) if match.group().upper() in options]
    return any(
        left.group().upper() != right.group().upper()
        and _LIST_SEPARATOR.fullmatch(payload, left.end(), right.start()) is not None
        for left, right in pairwise(letters)
    )


def _option_with_text(text: str, options: Options) -> str | None:
    wanted = _normal(text)
    return next((letter for letter, option in options.items() if _normal(option) == wanted), None)


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _latin(text: str) -> str:
    """Full width made normal, Arabic and Bengali option letters made A to D."""
    return unicodedata.normalize("NFKC", text).translate(_LOCAL_LETTERS).strip()
