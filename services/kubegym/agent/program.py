"""The harness ``command``: an agent that is a program of its own and knows no more of a model than a base URL.

Each rollout's program is told a URL that is good for that rollout alone (``core.protocols.ModelUrls``). It reads the
task on its standard input, works in an empty folder, and may ask the model by Responses, Chat Completions or Messages
as often as the rollout's limits allow. What it asked and heard there is the conversation that is verified and kept:
what it prints counts only where it has to be explained why it failed. A model that was not there is the attempt's
failure, whatever the program made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kubegym.agent.attempt import AgentSettings, Conversation, attempted
from kubegym.core.errors import AgentError, InvalidSpec
from kubegym.core.messages import Item, item_text
from kubegym.core.protocols import Assignment, Attempt, CallContext, ModelUrls, SeenCall, Session

WORDS = 2000
"""Bytes of what a failed program wrote that its failure repeats."""
_MODEL_ITEMS = ("function_call", "reasoning")


@dataclass(frozen=True, slots=True)
class Program:
    """What is run for each rollout.

    Attributes:
        command: the program and its arguments; a word that begins with ``./`` is a file of the environment's folder.
        variables: of its environment, beside ``PATH``, ``HOME`` (its folder) and those that name the model.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str, folder: Path | None = None) -> Program:
        """Of a manifest's ``agent.config``, which lies in ``folder``. Raises InvalidSpec."""
        unknown = sorted(config.keys() - {"command", "env"})
        command, variables = config.get("command"), config.get("env") or {}
        if unknown:
            raise InvalidSpec(f"{where}: agent.config: the harness command has no setting {unknown[0]!r}")
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise InvalidSpec(f"{where}: agent.config.command: a list of words is needed, the program first")
        if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
            raise InvalidSpec(f"{where}: agent.config.env: an object of strings is needed")
        words = (str((folder / word).resolve()) if folder and word.startswith("./") else word for word in command)
        return cls(tuple(words), dict(variables))

    def environment(self, url: str, model: str, folder: str) -> dict[str, str]:
        """The variables of one run. Nothing else of this process's environment goes to it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": folder,
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "kubegym",  # clients insist on one; the URL is the secret
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "kubegym",
            "KUBEGYM_BASE_URL": url,
            "KUBEGYM_MODEL": model,
            "KUBEGYM_PARAMS": str(Path(folder) / ".kubegym.json"),
            **self.variables,
        }


async def run_program(
    assignment: Assignment, session: Session, program: Program, urls: ModelUrls, settings: AgentSettings
) -> Attempt:
    """Make one attempt by running a program, as ``run_attempt`` does by conversing."""
    return await attempted(_Programmed(assignment, session, program, urls, settings))


class _Programmed(Conversation):
    """An attempt whose conversation a program has."""

    __slots__ = ("program", "urls")

    def __init__(
        self, assignment: Assignment, session: Session, program: Program, urls: ModelUrls, settings: AgentSettings
    ) -> None:
        super().__init__(assignment, session, settings)
        self.program = program
        self.urls = urls

    async def converse(self) -> None:
        await self.begin()
        if self.session.multi_turn:
            raise AgentError(
                "the environment answers messages (`respond`), which the harness command does not give it",
                reason="HarnessUnsupported",
            )
        settings, identity = self.settings, self.assignment.rollout_id
        context = CallContext(identity, self.deadline, token_ids=settings.token_ids)
        url = self.urls.open(
            context, max_calls=settings.max_steps, seeds=seeds.of_turn if (seeds := self.seeds()) else None
        )
        try:
            code, words = await self._execute(url)
        finally:
            seen = self.urls.shut(identity)
            for number, call in enumerate(seen.calls):
                self._take(call, first=number == 0)
        if seen.trouble is not None:
            raise seen.trouble
        if seen.refused:
            self.stop_reason = "max_steps"
        elif code != 0:
            raise AgentError(f"the program ended with {code}: {words or '(no words)'}", reason="ProgramFailed")
        elif not seen.calls:
            raise AgentError(f"the program asked the model nothing: {words or '(no words)'}", reason="NoModelCall")
        else:
            self.stop_reason = seen.calls[-1].reply.stop or "completed"

    def _take(self, call: SeenCall, *, first: bool) -> None:
        """A call and, but for the first one's, what is new in its input since the model spoke."""
        if not first:
            self.transcript.output += _since_the_model_spoke(call.input)
        self.transcript.add(call.reply)

    async def _execute(self, url: str) -> tuple[int, str]:
        """Run the program to its end; its exit code, and the end of what it wrote."""
        folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="kubegym-rollout-")
        try:
            params = Path(folder) / ".kubegym.json"
            params.write_bytes(orjson.dumps({**self.params, "input": self.transcript.input}))
            process = await asyncio.create_subprocess_exec(
                *self.program.command,
                cwd=folder,
                env=self.program.environment(url, self.urls.model, folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            await asyncio.to_thread(shutil.rmtree, folder, True)
            raise AgentError(f"{self.program.command[0]} cannot be run: {error}", reason="ProgramFailed") from error
        try:
            _, words = await asyncio.gather(_tell(process, task_text(self.transcript.input)), _last_words(process))
            return await process.wait(), words
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
            await process.wait()
            await asyncio.to_thread(shutil.rmtree, folder, True)


def task_text(items: Sequence[Item]) -> str:
    """What a program reads: the texts of the task's messages."""
    return "\n\n".join(text for item in items if (text := item_text(item)))


def _since_the_model_spoke(items: Sequence[Item]) -> list[Item]:
    for place in range(len(items) - 1, -1, -1):
        if items[place].get("role") == "assistant" or items[place].get("type") in _MODEL_ITEMS:
            return [{"type": "message", **item} for item in items[place + 1 :]]
    return [{"type": "message", **item} for item in items]


async def _tell(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it need not read
        process.stdin.write(text.encode())
        await process.stdin.drain()
    process.stdin.close()


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    last = b""
    while piece := await process.stdout.read(65536):
        last = (last + piece)[-WORDS:]
    return last.decode(errors="replace").strip()
