"""Every environment that comes with KubeGym behind a real resources server: what its oracle earns there, and offers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from kubegym.agent import AgentSettings, run_attempt
from kubegym.agent.resources_client import ResourcesClient
from kubegym.core.ids import rollout_id, task_id
from kubegym.core.protocols import Assignment, Attempt
from kubegym.core.spec import GymEnvironment, load_manifests
from kubegym.resources import EnvironmentRuntime, load_environment
from kubegym.testing import ScriptedModel, play
from testbed.resources_server import server_of
from testbed.served import serving

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "environments").glob("*/app.py"))
ROWS = 3


class Served:
    """An environment, and the task whose stand-ins play the models of its roles."""

    def __init__(self, folder: Path) -> None:
        (self.manifest,) = [
            one for one in load_manifests(folder / "environment.yaml") if isinstance(one, GymEnvironment)
        ]
        self.cls = load_environment(folder).cls
        self.config = self.manifest.spec.resources.config
        self.runtime = EnvironmentRuntime(self.cls, self.config)
        self.row: dict[str, Any] = {}
        self.roles = [role for role in self.manifest.spec.models if role != "policy"]

    def models(self) -> dict[str, ScriptedModel]:
        def of(role: str) -> ScriptedModel:
            return ScriptedModel(lambda request: self.runtime.stand_in(role, self.row)(request), role)

        return {role: of(role) for role in self.roles}

    async def attempt(self, client: ResourcesClient, row: dict[str, Any]) -> tuple[Attempt, ScriptedModel]:
        """One rollout of the oracle over HTTP."""
        self.row = {"responses_create_params": {"input": []}, **row}
        script = await self.runtime.oracle(self.row)
        policy = ScriptedModel([script] if isinstance(script, str) else script)
        name = self.runtime.name
        identity = rollout_id("0" * 32, 0, 0)
        assignment = Assignment(name, self.row, task_id(name, self.row), 0, 0, identity)
        return await run_attempt(assignment, client.session(assignment), policy, AgentSettings()), policy


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
async def test_the_oracle_earns_as_much_behind_http_as_in_process(folder: Path) -> None:
    served = Served(folder)
    rows = [json.loads(line) for line in (folder / "data/example.jsonl").read_text().splitlines()[:ROWS]]
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        server = server_of(served.cls, served.config, models=served.models(), self_address=address)
        async with serving(server.app(), bound=bound) as url:
            client = ResourcesClient([url])
            try:
                for row in rows:
                    await compare(served, client, row)
            finally:
                await client.close()


async def compare(served: Served, client: ResourcesClient, row: dict[str, Any]) -> None:
    attempt, policy = await served.attempt(client, row)
    assert (attempt.outcome, attempt.reward) == ("scored", 1.0), attempt.failure
    stand_ins: dict[str, Any] = dict.fromkeys(served.roles, "stand-in")
    here = play(served.cls, row, "oracle", served.config, models=stand_ins)
    assert attempt.stop_reason == here.stop_reason
    assert policy.requests[0].get("tools") == here.requests[0].get("tools")
    assert {**row, **attempt.fields}.keys() == {**row, **here.fields}.keys()
