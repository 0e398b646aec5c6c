"""``kubegym run --split``: model, resources and agent server of each environment, as processes of their own.

The run then goes over the same wire as on a cluster. The servers are those of ``kubegym serve``, on free ports of the
loopback interface; they end with the run, also where it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial

from kubegym.core.errors import InvalidSpec, RunFailed
from kubegym.local.runspec import Entry, ModelRef, RunSpec
from kubegym.local.supervise import die_with

START_SECONDS = 120.0
STOP_SECONDS = 40.0
_URL = re.compile(r" at (http://\S+)$")


@contextlib.asynccontextmanager
async def split_servers(spec: RunSpec) -> AsyncIterator[RunSpec]:
    """Start the servers of a run; the spec whose attempts they make.

    Raises:
        InvalidSpec: a model that can only be had in process.
        RunFailed: a server did not start; its last words.
    """
    policies = {repr(entry.models["policy"]): entry.models["policy"] for entry in spec.entries}
    async with contextlib.AsyncExitStack() as stack:
        first = [await _model(stack, policy) for policy in policies.values()]
        first += [("resources", entry.environment) for entry in spec.entries]
        urls = await _start(stack, first)
        models = dict(zip(policies, urls, strict=False))
        resources = urls[len(policies) :]
        agents = await _start(
            stack,
            [
                _agent(entry, models[repr(entry.models["policy"])], place)
                for entry, place in zip(spec.entries, resources, strict=True)
            ],
        )
        entries = (
            replace(entry, agent_urls=(url,), agent_policy=_served(entry, models))
            for entry, url in zip(spec.entries, agents, strict=True)
        )
        yield replace(spec, entries=tuple(entries))


async def _start(stack: contextlib.AsyncExitStack, commands: list[tuple[str, ...]]) -> list[str]:
    """Start servers side by side; their URLs, when all of them listen."""
    processes = [await stack.enter_async_context(_server(*command)) for command in commands]
    starting = (_listening(process, command[0]) for process, command in zip(processes, commands, strict=True))
    return list(await asyncio.gather(*starting))


async def _model(stack: contextlib.AsyncExitStack, policy: ModelRef) -> tuple[str, ...]:
    """The command of a policy's model server; a simulated engine is a server of its own behind it."""
    if policy.path is not None or policy.options:
        raise InvalidSpec(f"--split: model {policy.model} can only be had in process; serve it, and give --base-url")
    if policy.kind == "embedded":
        return ("model", "--engine", "embedded", "--model", policy.model)
    upstream, key = policy.base_url or "", policy.api_key_file
    if policy.kind == "simulated":
        (engine,) = await _start(stack, [("model", "--engine", "simulated", "--model", policy.model)])
        upstream = f"{engine}/v1"
    keyed = ("--api-key-file", key) if key else ()
    return ("model", "--upstream", upstream, "--model", policy.model, *keyed)


def _served(entry: Entry, models: Mapping[str, str]) -> ModelRef:
    """An entry's policy at its model server."""
    policy = entry.models["policy"]
    return ModelRef("server", policy.model, base_url=models[repr(policy)])


def _agent(entry: Entry, model: str, resources: str) -> tuple[str, ...]:
    steps = ("--max-steps", str(entry.max_steps)) if entry.max_steps else ()
    served = ("--resources-url", resources, "--model-server", model)
    return ("agent", entry.environment, *served, "--model", entry.models["policy"].model, *steps)


@contextlib.asynccontextmanager
async def _server(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A ``kubegym serve`` process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kubegym.cli.main", "serve", *arguments, "--listen", "127.0.0.1:0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the run, which ends its servers when it is done with them
        preexec_fn=partial(die_with, os.getpid()),
    )
    try:
        yield process
    finally:
        await _end(process)


async def _listening(process: asyncio.subprocess.Process, what: str) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            async for line in process.stdout:
                if found := _URL.search(line.decode().rstrip()):
                    return found[1].removesuffix("/v1")
    except TimeoutError:
        raise RunFailed(f"the {what} server did not start within {START_SECONDS:g} s", reason="NotServing") from None
    code = await process.wait()
    raise RunFailed(f"the {what} server ended with exit code {code}; see its error above", reason="NotServing")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
