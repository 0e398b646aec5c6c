"""Structured logs: a line a record, ``key=value`` or JSON, with run, shard and rollout ids where a message has them."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")

_IDS = re.compile(r"\b(run|shard|rollout|stage|reason)=([^\s,;:]+)")
_PLAIN = re.compile(r"^[^\s\"=]+$")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as fields. Ids that its message names (``rollout=1a2b3c4d-0-1``) are fields of their own."""
    message = record.getMessage()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, Any] = {
        "time": f"{whole}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": message,
    }
    fields.update(_IDS.findall(message))
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return json.dumps(fields_of(record), ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``key=value`` pairs; values with white space are quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, and below it the traceback where there is one."""
        fields = fields_of(record)
        traceback = fields.pop("traceback", None)
        line = " ".join(
            f"{name}={value if _PLAIN.match(value) else json.dumps(value, ensure_ascii=False)}"
            for name, value in fields.items()
        )
        return line if traceback is None else f"{line}\n{traceback}"


class StderrHandler(logging.StreamHandler[Any]):
    """To what ``sys.stderr`` is at that moment: a live display replaces it and prints logs above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Today's stderr."""
        return sys.stderr


def configure(level: str, style: LogFormat = "text", file: Path | None = None) -> None:
    """Set logging up, once a process.

    Args:
        level: one of ``LEVELS``.
        style: how a line looks.
        file: where lines go; None is stderr.

    Raises:
        OSError: the file cannot be opened.
    """
    handler: logging.Handler = StderrHandler() if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("asyncio", "markdown_it", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
