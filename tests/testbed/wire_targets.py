"""Servers for tests of the wire, each a process of its own: ``python -m testbed.wire_targets ROLE ...``.

Roles: ``upstream`` (a chat endpoint that says what the conversation's first message tells it to), ``model``,
``resources``, ``agent`` (ours), ``front`` (a proxy that sends each request to the next of several servers, without
stickiness), ``foreign-resources`` and ``foreign-agent`` (as NeMo Gym's users write theirs).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).parent / "wire"
COUNTER = ENVIRONMENTS / "counter"
ANY_TOOL = ENVIRONMENTS / "any_tool"
START_SECONDS = END_SECONDS = 300.0
LONG_SECONDS = 3600.0
"""Limits of what tests hold for as long as they want."""


class Server:
    """A server process.

    Attributes:
        url: where it listens.
        process: the process, to be killed by a test.
    """

    def __init__(self, role: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        folder = str(Path(__file__).resolve().parents[1])
        variables = {**os.environ, "PYTHONPATH": folder, "PYTHONUNBUFFERED": "1", **(environment or {})}
        command = [sys.executable, "-m", "testbed.wire_targets", role, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=variables)
        try:
            self.url = self._first_line()
        except BaseException:
            self.stop()
            raise

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline().decode().strip() if ready else ""
        if not line.startswith("http://"):
            raise RuntimeError(f"{self.process.args!r} did not start: it said {line!r}")
        return line

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """End it as a machine's failure would."""
        self.process.kill()
        self.process.wait(END_SECONDS)

    def stop(self) -> None:
        """End it politely; it must obey."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        finally:
            self.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextmanager
def server(role: str, *arguments: str, **options: Any) -> Iterator[Server]:
    """A server while the block runs."""
    started = Server(role, *arguments, **options)
    try:
        yield started
    finally:
        started.stop()


class Fleet:
    """Servers by name, started when first asked for and stopped at the end of the session."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._makers: dict[str, Callable[[], Server]] = {
            "upstream": lambda: Server("upstream"),
            "model": lambda: Server("model", self.url("upstream")),
            "resources": lambda: Server("resources", str(COUNTER)),
            "replica-0": lambda: Server("resources", str(COUNTER), '{"secret": "shared by both replicas"}'),
            "replica-1": lambda: Server("resources", str(COUNTER), '{"secret": "shared by both replicas"}'),
            "replicas": lambda: Server("front", self.url("replica-0"), self.url("replica-1")),
            "processes": lambda: Server("resources", str(COUNTER), '{"processes": 2}'),
            "any-tool": lambda: Server("resources", str(ANY_TOOL)),
            "foreign-resources": lambda: Server("foreign-resources"),
            "foreign-agent": lambda: Server("foreign-agent"),
            "agent": lambda: Server("agent", self.url("resources"), self.url("model")),
            "agent-over-replicas": lambda: Server("agent", self.url("replicas"), self.url("model")),
            "agent-over-foreign": lambda: Server("agent", self.url("foreign-resources"), self.url("model")),
        }

    def url(self, name: str) -> str:
        """The base URL of a server."""
        if name not in self._servers:
            self._servers[name] = self._makers[name]()
        return self._servers[name].url

    def stop(self) -> None:
        """Stop all, those first that use others."""
        for server in reversed(self._servers.values()):
            server.stop()


def script(*steps: Any, **more: Any) -> str:
    """A user message that tells ``upstream`` what to say at each model call.

    A step is a text, a list of ``[tool, arguments]`` calls, or a chat message object.
    """
    return json.dumps({"script": steps, **more})


def scripted_answer(body: dict[str, Any]) -> str | dict[str, Any]:
    """What ``upstream`` answers: the step with the number of assistant messages there are."""
    messages = body["messages"]
    first = next((message.get("content") for message in messages if message.get("role") == "user"), "")
    if isinstance(first, list):
        first = "".join(part.get("text") or "" for part in first)
    if not str(first).startswith('{"script"'):
        return "four"
    steps = json.loads(str(first))["script"]
    step = steps[min(sum(message.get("role") == "assistant" for message in messages), len(steps) - 1)]
    if not isinstance(step, list):
        return step  # type: ignore[no-any-return]
    number = sum(len(message.get("tool_calls") or ()) for message in messages)
    calls = [
        {
            "id": f"call_{number + place}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for place, (name, arguments) in enumerate(step)
    ]
    return {"content": None, "tool_calls": calls}


def main(arguments: Sequence[str]) -> None:
    """Run one role until SIGTERM."""
    role, *rest = arguments
    roles: dict[str, Callable[..., None]] = {
        "upstream": _upstream,
        "model": _model,
        "resources": _resources,
        "agent": _agent,
        "front": _front,
        "foreign-resources": _foreign_resources,
        "foreign-agent": _foreign_agent,
    }
    roles[role](*rest)


def _say(url: str) -> None:
    print(url, flush=True)


def _until_told(serving: contextlib.AbstractAsyncContextManager[str]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with serving as url:
            _say(url)
            await stop.wait()

    asyncio.run(run())


def _upstream(options: str = "{}") -> None:
    from kubegym.model.simulated import Answers, SimulatedConfig, serve_simulated

    given = json.loads(options)

    @contextlib.asynccontextmanager
    async def serving() -> Any:
        from dataclasses import replace

        config = SimulatedConfig.parse({"model": "stub", "tool_probability": 0.0, **given})
        served = await serve_simulated(replace(config, answers=Answers(function=scripted_answer)))
        yield served.url
        await served.close()

    _until_told(serving())


def _model(*upstreams: str) -> None:
    from kubegym.model.server import run_model_server

    run_model_server(upstreams, "127.0.0.1", 0, model="stub", grace_seconds=5, on_listening=_say)


def _agent(resources: str, model: str, options: str = "{}") -> None:
    from kubegym.agent import AgentSettings
    from kubegym.agent.resources_client import ResourcesClient
    from kubegym.agent.server import AgentServer, run_agent_server
    from kubegym.model.client import ChatClient

    settings = AgentSettings(**{"max_steps": 8, "deadline_seconds": LONG_SECONDS, **json.loads(options)})
    client = ChatClient(f"{model}/v1", "stub")
    agent = AgentServer.over(ResourcesClient(resources.split(",")), client, settings, name="counter")
    run_agent_server(agent, "127.0.0.1", 0, grace_seconds=120, on_listening=_say)


def _resources(environment: str, options: str = "{}") -> None:
    from kubegym.resources import SessionLimits
    from kubegym.resources.processes import ResourcesService, run_resources_server

    given = json.loads(options)
    service = ResourcesService(
        environment,
        session_limits=SessionLimits(tool_seconds=LONG_SECONDS),
        expose_tools_over_mcp=True,
        aggregate_metrics=_aggregation,
    )
    run_resources_server(
        service,
        "127.0.0.1",
        given.get("port", 0),
        processes=given.get("processes", 1),
        environ={"KUBEGYM_SESSION_SECRET": given["secret"]} if "secret" in given else {},
        grace_seconds=5,
        on_listening=_say,
    )


def _aggregation(runtime: Any) -> Any:
    from functools import partial

    from kubegym.data.aggregate import MetricHooks
    from kubegym.local.serving import aggregate_reply

    return partial(aggregate_reply, hooks=MetricHooks())


def _front(*backends: str) -> None:
    """Each request goes to the next backend, whatever connection it came by; a dead one answers 502, as nginx would."""
    from http import HTTPStatus

    from kubegym.http import HttpClient, HttpError, Url
    from testbed.raw_server import Peer, raw_server

    turns = itertools.cycle([Url(backend) for backend in backends])

    @contextlib.asynccontextmanager
    async def serving() -> Any:
        http = HttpClient()

        async def relay(peer: Peer) -> None:
            while True:
                head, body = await peer.request()
                first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
                method, target, _ = first.split(b" ")
                dropped = (b"host", b"content-length", b"connection")
                kept = b"".join(b"%b\r\n" % line for line in lines if line.split(b":")[0].lower() not in dropped)
                url = next(turns) / target.decode().lstrip("/")
                try:
                    reply = await http.request(method, url, kept, body, LONG_SECONDS, repeatable=False)
                except HttpError:
                    peer.say(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
                    continue
                phrase = HTTPStatus(reply.status).phrase.encode()
                names = (b"content-length", b"transfer-encoding", b"connection")
                pairs = b"".join(b"%b: %b\r\n" % pair for pair in reply.headers if pair[0].lower() not in names)
                start = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n"
                peer.say(start % (reply.status, phrase, pairs, len(reply.body)) + reply.body)

        async with raw_server(relay) as url:
            yield url
        await http.close()

    _until_told(serving())


def _foreign_resources() -> None:
    from testbed.foreign_servers import ForeignCounter, Seen, Told, answering

    counter = ForeignCounter()
    counter.release.set()

    async def answer(seen: Seen) -> Told:
        return Told({"status": "ok"}) if seen.path == "/" else await counter(seen)

    _until_told(answering(answer))


def _foreign_agent() -> None:
    from testbed.foreign_servers import Seen, Told, answering, foreign_agent

    run, _ = foreign_agent()

    async def answer(seen: Seen) -> Told:
        if seen.path == "/":
            return Told({"status": "ok"})
        return await run(seen) if seen.path == "/run" else Told({"detail": "Not Found"}, 404)

    _until_told(answering(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
