"""Serving an environment's parts: composes agents, environments and models behind their servers' routes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from kubegym.agent.cookies import CookieJar
from kubegym.agent.resources_client import ResourcesClient
from kubegym.agent.server import AgentServer
from kubegym.core.errors import InvalidSpec
from kubegym.core.protocols import Assignment, ModelClient, Session
from kubegym.data.aggregate import Aggregator, MetricHooks, metrics_json
from kubegym.http.server import App, Handler, Problem, Reply, Request
from kubegym.local.episodes import build_episodes, metric_hooks
from kubegym.local.models import build_client
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.runspec import Entry, ModelRef
from kubegym.resources import EnvironmentRuntime
from kubegym.resources.processes import ResourcesService
from kubegym.resources.server import ServerLimits


def the_entry(environment: str, flags: RunFlags | None = None) -> Entry:
    """The one entry that an environment's folder, name or manifest file stands for. Raises InputError."""
    entries = resolve([environment], flags).entries
    if len(entries) != 1:
        raise InvalidSpec(f"{environment} holds a job of {len(entries)} environments; a server serves one")
    return entries[0]


def agent_app(environment: str, flags: RunFlags | None = None) -> App:
    """The agent server of an environment.

    Args:
        environment: folder, name or manifest file.
        flags: the policy model; ``resources_urls``, replicas of its resources server: none composes the environment
            into the agent's process.

    Raises:
        InputError: an environment or model that cannot be had.
    """
    entry = the_entry(environment, flags)
    spec = replace(resolve([environment], flags), entries=(entry,))
    episodes = build_episodes(spec)
    part = episodes.parts[entry.name]
    policy = part.models["policy"]
    harness = None if entry.harness == "simple" else part.make_attempt
    if entry.resources_urls:
        resources = ResourcesClient(entry.resources_urls)

        async def stop() -> None:
            await part.close()
            await resources.close()

        return AgentServer.over(
            resources,
            policy,
            part.settings,
            name=part.info.name,
            make_attempt=harness,
            start=part.start,
            stop=stop,
        ).app()

    def session(assignment: Assignment, cookies: CookieJar | None = None, /) -> Session:
        return part.session(assignment)

    server = AgentServer(
        session,
        policy,
        part.settings,
        name=part.info.name,
        make_attempt=harness,
        aggregate_metrics=partial(aggregate_reply, hooks=part.metric_hooks),
        start=episodes.start,
        stop=episodes.close,
    )
    return server.app()


async def aggregate_reply(request: Request, *, hooks: MetricHooks) -> Reply:
    """``POST /aggregate_metrics``. Raises Problem (422)."""
    responses = request.object().get("verify_responses") or []
    if not isinstance(responses, list) or not all(isinstance(row, dict) for row in responses):
        raise Problem.invalid(["body", "verify_responses"], "must be a list of objects", "list_type", responses)
    for number, row in enumerate(responses):
        where: list[str | int] = ["body", "verify_responses", number]
        for name in ("_ng_task_index", "_ng_rollout_index"):
            if type(row.get(name)) not in (int, type(None)):
                raise Problem.invalid([*where, name], "Input should be a valid integer", "int_type", row[name])
        _require_object(row, where, "response")
        _require_object(row.get("response") or {}, [*where, "response"], "usage")
    return Reply.json(await aggregate(responses, hooks))


def _require_object(parent: Mapping[str, Any], where: list[str | int], name: str) -> None:
    """Raises Problem (422) where a field is neither an object nor absent or null."""
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise Problem.invalid([*where, name], "Input should be a valid dictionary", "dict_type", value)


async def aggregate(responses: Sequence[Mapping[str, Any]], hooks: MetricHooks) -> dict[str, Any]:
    """``{group_level_metrics, agent_metrics, key_metrics}`` of verify responses (contract 1.3, 2.4).

    Rows of a task are those with one ``_ng_task_index``; a row without is a task of its own.
    """
    tasks: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(responses):
        tasks.setdefault(row.get("_ng_task_index", ("row", number)), []).append(dict(row))
    aggregator = Aggregator(Path(tempfile.gettempdir()))
    try:
        for index, rows in enumerate(tasks.values()):
            rows.sort(key=lambda row: row.get("_ng_rollout_index") or 0)
            aggregator.add_task("agent", rows[0].get("_ng_task_index", index), rows, hooks)
        agents = orjson.loads(b"".join(metrics_json(await aggregator.finish())))
    finally:
        aggregator.close()
    if not agents:
        return {"group_level_metrics": [], "agent_metrics": {}, "key_metrics": {}}
    return {name: agents[0][name] for name in ("group_level_metrics", "agent_metrics", "key_metrics")}


def resources_service(environment: str, *, expose_tools_over_mcp: bool = False) -> ResourcesService:
    """What a resources server of an environment serves: its manifest's configuration and models, but the policy.

    Raises:
        InputError: an environment that cannot be had.
    """
    # The policy is the agent's; naming one here keeps a manifest without `models.policy` from being refused.
    entry = the_entry(environment, RunFlags(engine="simulated"))
    others = {role: ref for role, ref in entry.models.items() if role != "policy"}
    return ResourcesService(
        environment=entry.environment,
        config=entry.config,
        session_limits=None,
        server_limits=ServerLimits(),
        expose_tools_over_mcp=expose_tools_over_mcp,
        models=partial(_clients, others) if others else None,
        aggregate_metrics=_aggregating,
    )


def _clients(refs: Mapping[str, ModelRef]) -> dict[str, ModelClient]:
    return {role: build_client(ref, concurrency=64) for role, ref in refs.items()}


def _aggregating(runtime: EnvironmentRuntime) -> Handler:
    return partial(aggregate_reply, hooks=metric_hooks(runtime))
