"""``python -m kubegym_operator``: an operator process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from datetime import UTC, datetime

import orjson
from pydantic import ValidationError
from pydantic_settings import SettingsError

from kubegym.core.errors import KubeGymError
from kubegym_operator.app import operate
from kubegym_operator.settings import OperatorSettings

_NOISY = ("kopf", "asyncio", "aiohttp")


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def set_up_logging(settings: OperatorSettings) -> None:
    """Log to standard error. What libraries tell about each of thousands of objects is left out."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    if settings.log_level != "debug":
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)


async def run(settings: OperatorSettings) -> None:
    """Operate until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await operate(settings, stop)


def main() -> int:
    """The exit code: 0 after a signal, 1 where the cluster is out of reach, 2 for settings that cannot be."""
    try:
        settings = OperatorSettings()
    except (ValidationError, SettingsError) as error:
        print(f"kubegym-operator: {error}", file=sys.stderr)
        return 2
    set_up_logging(settings)
    gc.freeze()  # what is imported stays, and pages of a list make no cycles: look for garbage less often
    gc.set_threshold(50_000, 20, 100)
    try:
        asyncio.run(run(settings))
    except KubeGymError as error:
        logging.getLogger("kubegym.operator").critical("%s: %s", error.reason, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
