"""The escape suite: programs that each try one way out of the sandbox, and say which.

A program tries with ``attempt``; it prints ``CONTAINED`` and what stood in its way, or ``ESCAPED``. Where a program
ends otherwise its ``contained`` says how. The world that they attack (files, servers, processes) is in ``world``, the
run with an honest neighbour beside each in ``run``, random system calls in ``fuzz``.
"""

from testbed.escapes import files, kernel, network, processes, resources, results
from testbed.escapes.program import Escape

ESCAPES: tuple[Escape, ...] = (
    *files.ESCAPES,
    *network.ESCAPES,
    *kernel.ESCAPES,
    *processes.ESCAPES,
    *resources.ESCAPES,
    *results.ESCAPES,
)

__all__ = ["ESCAPES", "Escape"]
