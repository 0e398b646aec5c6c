"""Both sides of a connection are in the loop of a test: no pause of the machine is taken for a fault of either."""

from testbed.steady_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
