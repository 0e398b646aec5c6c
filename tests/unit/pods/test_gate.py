"""Attempts wait while what they need is away."""

from __future__ import annotations

import asyncio

import pytest

from kubegym.core.errors import ModelError
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Assignment, Attempt
from kubegym.local.runspec import Entry, ModelRef
from kubegym.pods.gate import Gate, GatedEpisodes, servers_of
from testbed.episodes import ScriptedEpisodes, scored

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class Server:
    """Answers, or not."""

    def __init__(self, *, up: bool = True) -> None:
        self.up = up
        self.asked = 0

    async def probe(self) -> bool:
        self.asked += 1
        return self.up


def assignment(number: int = 0) -> Assignment:
    return Assignment("env", {}, "t", number, 0, f"r-{number}-0")


async def test_nothing_runs_before_the_server_has_answered_once() -> None:
    server, episodes = Server(up=False), ScriptedEpisodes()
    gated = GatedEpisodes(episodes, {"env": Gate("env", [server.probe])})
    waiting = [asyncio.create_task(gated.run(assignment(n))) for n in range(10)]
    await asyncio.sleep(100)
    assert episodes.started == []
    server.up = True
    await asyncio.gather(*waiting)
    assert len(episodes.started) == 10
    asked = server.asked
    await gated.run(assignment())
    assert server.asked == asked, "an open gate costs nothing"


@pytest.mark.parametrize("reason", ["AgentUnavailable", "ModelUnavailable", "SessionLost"])
async def test_after_a_failure_for_want_of_a_server_the_next_attempt_waits_for_it(reason: str) -> None:
    server = Server()

    def behaviour(made: Assignment) -> Attempt:
        if server.up:
            return scored(made)
        return Attempt("failed", failure=Failure("agent", reason, "away", True, 0))

    episodes = ScriptedEpisodes(behaviour)
    gated = GatedEpisodes(episodes, {"env": Gate("env", [server.probe])})
    assert (await gated.run(assignment())).outcome == "scored"
    server.up = False
    assert (await gated.run(assignment())).outcome == "failed"
    again = asyncio.create_task(gated.run(assignment()))
    await asyncio.sleep(600)
    assert not again.done()
    server.up = True
    assert (await again).outcome == "scored"


async def test_another_failure_shuts_nothing() -> None:
    server = Server()
    failing = ScriptedEpisodes(lambda a: Attempt("failed", failure=Failure("tool", "ToolCrashed", "bad", False, 0)))
    gated = GatedEpisodes(failing, {"env": Gate("env", [server.probe])})
    await gated.run(assignment())
    server.up = False
    await gated.run(assignment())
    assert len(failing.started) == 2


async def test_it_does_not_stay_shut_for_ever() -> None:
    episodes = ScriptedEpisodes()
    gated = GatedEpisodes(episodes, {"env": Gate("env", [Server(up=False).probe], stall_seconds=300)})
    started = asyncio.get_running_loop().time()
    await gated.run(assignment())
    assert 300 <= asyncio.get_running_loop().time() - started < 330


async def test_a_refused_key_ends_the_run() -> None:
    async def probe() -> bool:
        raise ModelError("refused", reason="ModelUnauthorized")

    gated = GatedEpisodes(ScriptedEpisodes(), {"env": Gate("env", [probe])})
    with pytest.raises(ModelError, match="refused"):
        await gated.run(assignment())


async def test_without_servers_there_is_nothing_to_wait_for() -> None:
    episodes = ScriptedEpisodes()
    await GatedEpisodes(episodes, {"env": Gate("env", [])}).run(assignment())
    assert len(episodes.started) == 1


async def test_what_an_entry_s_attempts_need() -> None:
    models = {
        "policy": ModelRef("server", "m", base_url="http://ms.ns.svc:8000/v1"),
        "judge": ModelRef("server", "m", base_url="http://ms.ns.svc:8000/v1/"),
        "user": ModelRef("endpoint", "m", base_url="https://api.example.com/v1"),
    }
    entry = Entry("e", "e", models, agent_urls=("http://e-agent.ns.svc:8001/",))
    assert servers_of(entry) == ["http://e-agent.ns.svc:8001", "http://ms.ns.svc:8000"]
    assert servers_of(Entry("e", "e", {"policy": ModelRef("embedded", "tiny")})) == []
