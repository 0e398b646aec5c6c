"""What runs in the process of its own: math-verify. Imported there only, because SymPy takes a second to import.

math-verify's own time limits are wall time, which a loaded machine would turn into wrong answers; they are off, and the
process has a limit of CPU time instead.
"""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Iterator

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns about every answer that it cannot read
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

_MEMORY_BYTES = 4 << 30
_GOLD = (LatexExtractionConfig(),)
_ANSWER = (ExprExtractionConfig(), LatexExtractionConfig())


def compare(expected: str, answer: str) -> tuple[bool, str | None]:
    r"""Whether an answer equals the expected expression, and what was read out of it.

    Args:
        expected: LaTeX that can be read, such as ``\boxed{1/2}``.
        answer: a text whose answer is looked for.
    """
    try:
        with _bounded_memory():
            gold = parse(expected, _GOLD, parsing_timeout=None)
            read = parse(answer, _ANSWER, parsing_timeout=None)
            equal = bool(gold) and verify(gold, read, timeout_seconds=None)
            shown = [str(one).strip() for one in read]
            known = {str(one).strip() for one in gold}
    except Exception:  # a parser over whatever a policy writes: what it stumbles over is no answer
        return False, None
    return equal, next((one for one in shown if one in known), shown[0] if shown else None)


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """``9**9**9`` asks for all there is; what needs gigabytes is a MemoryError here, not the end of the pod."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    with contextlib.suppress(ValueError, OSError):  # where a platform has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
