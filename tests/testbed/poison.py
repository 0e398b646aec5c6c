"""Episodes some of whose rollouts take their process down. Importable in an isolated child (``ChildSpec.factory``)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from typing import Any

from kubegym.core.ids import rollout_id
from kubegym.core.protocols import Assignment, Attempt
from testbed.episodes import ScriptedEpisodes, scored


def assignment_of(task: int) -> Assignment:
    """A rollout of a task to run by hand."""
    row = {"responses_create_params": {"input": f"task {task}"}}
    return Assignment("env0", row, f"id of {task}", task, 0, rollout_id("1" * 8, task, 0))


class PoisonedEpisodes(ScriptedEpisodes):
    """Rollouts of the tasks named in ``poison`` (task index as text -> how) do not end well.

    ``exit`` ends the process, ``segfault`` crashes it, ``memory`` takes more than it may have, ``raise`` raises,
    ``unpicklable`` answers what cannot be handed over, ``hang`` blocks the process, ``sleep`` never answers.
    """

    def __init__(self, poison: dict[str, str], pids: str | None = None) -> None:
        super().__init__()
        self._poison = poison
        self._pids = pids

    async def run(self, assignment: Assignment) -> Attempt:
        if self._pids is not None:
            self._note(self._pids, assignment)
        how = self._poison.get(str(assignment.task_index))
        await asyncio.sleep(0)
        if how == "exit":
            os._exit(3)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "memory":
            bytearray(64 << 30)
        if how == "raise":
            raise RuntimeError("an attempt is a value, but this one raises")
        if how == "unpicklable":
            attempt = scored(assignment)
            attempt.fields = {"lock": threading.Lock()}
            return attempt
        if how == "hang":
            threading.Event().wait()
        if how == "sleep":
            await asyncio.Event().wait()
        return scored(assignment)

    def _note(self, path: str, assignment: Assignment) -> None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()} {assignment.rollout_id}\n")


async def poisoned(argument: dict[str, Any]) -> PoisonedEpisodes:
    """Factory for isolated children."""
    return PoisonedEpisodes(argument["poison"], argument.get("pids"))


async def broken(argument: object) -> PoisonedEpisodes:
    """A factory that does not get far."""
    raise ValueError("no such environment")


async def dying(argument: object) -> PoisonedEpisodes:
    """A factory that takes its process down."""
    os._exit(9)
