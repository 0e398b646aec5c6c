"""Errors as a user meets them: one line that says what to do, an exit code, and no traceback."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

from kubegym.core.errors import InputError, InvalidRows, KubeGymError

FAILED = 1
BAD_INPUT = 2

log = logging.getLogger("kubegym.cli")


def exit_code_of(error: KubeGymError) -> int:
    """2 for what the user can put right in the input, 1 for a run that failed."""
    return BAD_INPUT if isinstance(error, InputError) or error.reason == "IncompleteRun" else FAILED


def error_text(error: KubeGymError) -> str:
    """``error: <message> [Reason]``; the reason stands in the first line of a longer message."""
    first, newline, rest = error.message.partition("\n")
    return f"error: {first} [{error.reason}]{newline}{rest}"


def error_json(error: KubeGymError) -> dict[str, Any]:
    """The error for programs."""
    said: dict[str, Any] = {"reason": error.reason, "message": error.message, "retryable": error.retryable}
    if isinstance(error, InvalidRows):
        said["count"] = error.count
        said["problems"] = [{"source": p.source, "line": p.line, "message": p.message} for p in error.problems]
    return {"error": said}


def report(error: KubeGymError, *, as_json: bool = False) -> int:
    """Tell the user, and return the exit code."""
    print(error_text(error), file=sys.stderr)
    if as_json:
        print_json(error_json(error))
    return exit_code_of(error)


def print_json(value: Any) -> None:
    """JSON for programs, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def guarded(work: Callable[[], int], *, as_json: bool = False, debug: bool = False) -> int:
    """Do the work; whatever goes wrong becomes a line on stderr and an exit code.

    Args:
        work: returns its exit code.
        as_json: also print expected errors on stdout, as JSON.
        debug: print tracebacks.
    """
    try:
        return work()
    except KubeGymError as error:
        if debug:
            traceback.print_exc()
        return report(error, as_json=as_json)
    except OSError as error:
        if error.filename is None:
            return _unexpected(error, debug)
        print(f"error: {error.filename}: {error.strerror} [{type(error).__name__}]", file=sys.stderr)
        if debug:
            traceback.print_exc()
        return FAILED
    except Exception as error:
        return _unexpected(error, debug)


def _unexpected(error: Exception, debug: bool) -> int:
    """A defect of ours. The traceback is never lost: it is printed, or lies in a file that is named."""
    said = f"error: {type(error).__name__}: {error} [InternalError]"
    if debug:
        traceback.print_exception(error)
        print(said, file=sys.stderr)
        return FAILED
    print(said, file=sys.stderr)
    print(f"  this is a defect of kubegym; {_kept(error)}", file=sys.stderr)
    return FAILED


def _kept(error: Exception) -> str:
    import tempfile

    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", prefix="kubegym-error-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        return f"its traceback is in {file.name}"
    return "--log-level debug prints its traceback"
