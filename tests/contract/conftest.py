"""What several contract suites share."""

from testbed.command_fixtures import run, started

__all__ = ["run", "started"]
