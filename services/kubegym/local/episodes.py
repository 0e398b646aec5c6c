"""Episodes of a run: environments, models and agent composed in this process, or served and called over HTTP."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kubegym.agent import AgentSettings, apply_verdict, run_attempt
from kubegym.agent.program import Program, run_program
from kubegym.agent.resources_client import ResourcesClient
from kubegym.core.errors import AgentError, EnvironmentNotFound, InvalidSpec, RolloutError
from kubegym.core.messages import input_items
from kubegym.core.outcomes import TRUNCATED
from kubegym.core.protocols import Assignment, Attempt, EnvironmentInfo, ModelClient, Session
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.data.aggregate import MetricHooks
from kubegym.http import HttpClient
from kubegym.http.names import SystemResolver
from kubegym.local.models import OnCall, build_client, rollout_calls
from kubegym.local.runspec import Entry, ModelRef, RunSpec
from kubegym.resources import (
    Environment,
    EnvironmentRuntime,
    LoadedEnvironment,
    Model,
    SessionLimits,
    Watchdog,
    load_environment,
)

if TYPE_CHECKING:
    from kubegym.agent.server import MakeAttempt
    from kubegym.model.rollout_calls import RolloutCalls

log = logging.getLogger("kubegym.local")

Attempting = Callable[[Assignment], Awaitable[Attempt]]
STALLED_EXIT = 70
"""Exit code of a worker whose environment code blocked it for good (EX_SOFTWARE)."""


class Part:
    """An entry at work: its environment, its models, how its attempts are made.

    An attempt is made by this process, or by an agent server; its session is held by this process, or by a resources
    server. The environment is here in any case: its rows are checked, its groups verified, its metrics computed here.
    """

    def __init__(
        self,
        entry: Entry,
        loaded: LoadedEnvironment,
        runtime: EnvironmentRuntime,
        models: Mapping[str, ModelClient],
        http: HttpClient,
        *,
        token_ids: bool = False,
    ) -> None:
        self.entry = entry
        self.loaded = loaded
        self.runtime = runtime
        self.settings = AgentSettings(
            max_steps=entry.max_steps,
            max_total_tokens=entry.max_total_tokens,
            deadline_seconds=entry.rollout_timeout,
            seed=entry.seed,
            overrides=entry.sampling,
            on_truncated=entry.on_truncated,
            token_ids=token_ids,
        )
        name = loaded.name
        self.info = EnvironmentInfo(
            name=name,
            version=runtime.version,
            verifier=name,
            verifier_version=runtime.verifier_version,
            agent=f"{name}_{entry.harness}_agent",
            model=models["policy"].model if "policy" in models else entry.models["policy"].model,
        )
        self.models = models
        self.urls: RolloutCalls | None = None
        self._serving = AsyncExitStack()
        if not entry.agent_urls:
            self.make_attempt = self._maker()
        self.attempt = self._remote(http) if entry.agent_urls else self._here(http)

    def _maker(self) -> MakeAttempt:
        """How an attempt is made in this process, by the agent's harness. Raises InvalidSpec."""
        entry, policy = self.entry, self.models["policy"]
        if entry.harness == "simple":
            return partial(_loop, policy)
        if entry.harness != "command":
            raise InvalidSpec(f"{entry.name}: no harness is called {entry.harness!r}; there are: simple, command")
        program = Program.parse(entry.harness_config, entry.name, self.loaded.folder)
        ref = entry.models.get("policy") or ModelRef("endpoint", policy.model)
        tokens, overrides = self.settings.token_ids, self.settings.overrides
        self.urls = rollout_calls(ref, policy, token_ids=tokens, overrides=overrides, host="127.0.0.1")
        return partial(_program, program, self.urls)

    async def start(self) -> None:
        """Listen where programs ask the model, if the agent is one."""
        if self.urls is not None:
            await self._serving.enter_async_context(self.urls)

    async def close(self) -> None:
        """Listen no longer. May be called twice."""
        await self._serving.aclose()

    def _remote(self, http: HttpClient) -> Attempting:
        from kubegym.rollout.remote import RemoteAgent, RemoteEpisodes

        entry = self.entry
        agent = RemoteAgent(
            entry.agent_urls,
            self.info,
            deadline_seconds=entry.rollout_timeout,
            seed=entry.seed,
            max_steps=entry.max_steps,
            max_total_tokens=entry.max_total_tokens,
            on_truncated=entry.on_truncated,
            overrides=entry.sampling,
            token_ids=self.settings.token_ids,
        )
        return RemoteEpisodes({entry.name: agent}, http=http, resolver=SystemResolver()).run

    @property
    def metric_hooks(self) -> MetricHooks:
        """What the environment adds to its metrics."""
        return metric_hooks(self.runtime)

    def session(self, assignment: Assignment) -> Session:
        """A session in this process. Raises AgentError where the row is no task of the environment."""
        others = {role: client for role, client in self.models.items() if role != "policy"}
        return self.runtime.session(assignment, others)

    def _here(self, http: HttpClient) -> Attempting:
        make, settings = self.make_attempt, self.settings
        open_session: Callable[[Assignment], Session] = self.session
        if self.entry.resources_urls:
            open_session = ResourcesClient(self.entry.resources_urls, http=http, resolver=SystemResolver()).session

        async def attempt(assignment: Assignment) -> Attempt:
            try:
                session = open_session(assignment)
            except RolloutError as error:
                return Attempt("failed", failure=error.failure(assignment.attempt))
            return await make(assignment, session, settings)

        return attempt


async def _loop(policy: ModelClient, assignment: Assignment, session: Session, settings: AgentSettings) -> Attempt:
    return await run_attempt(assignment, session, policy, settings)


async def _program(
    program: Program, urls: RolloutCalls, assignment: Assignment, session: Session, settings: AgentSettings
) -> Attempt:
    return await run_program(assignment, session, program, urls, settings)


class LocalEpisodes:
    """Implements ``core.protocols.Episodes`` over parts of this process and served ones."""

    def __init__(
        self, parts: Mapping[str, Part], clients: list[ModelClient], watchdog: Watchdog, http: HttpClient
    ) -> None:
        self.parts = parts
        self.clients = clients  # closed with the episodes
        self._watchdog = watchdog
        self._http = http

    async def start(self) -> None:
        """Set the environments up whose sessions are held here. Raises InvalidSpec."""
        self._watchdog.bind()
        for part in self.parts.values():
            if not part.entry.served:
                await part.runtime.start()
            await part.start()

    async def run(self, assignment: Assignment) -> Attempt:
        """Make one attempt."""
        return await self.parts[assignment.environment].attempt(assignment)

    def info(self, environment: str) -> EnvironmentInfo:
        """Names and versions for rows."""
        return self.parts[environment].info

    def verifies_groups(self, environment: str) -> bool:
        """Whether the environment has ``verify_group``."""
        return self.parts[environment].runtime.verifies_groups

    async def verify_group(self, environment: str, group: list[tuple[Assignment, Attempt]]) -> None:
        """Let the environment give verdicts over a whole group; failed attempts are not part of it."""
        part = self.parts[environment]
        skip = TRUNCATED if part.settings.on_truncated == "Skip" else frozenset()
        judged = [pair for pair in group if pair[1].failure is None and pair[1].stop_reason not in skip]
        if not judged:
            return
        try:
            verdicts = await part.runtime.verify_group([_rollout(*pair) for pair in judged])
            for (_, attempt), verdict in zip(judged, verdicts, strict=True):
                apply_verdict(attempt, verdict)
        except RolloutError as error:
            for assignment, attempt in judged:
                attempt.outcome, attempt.reward, attempt.failure = "failed", None, error.failure(assignment.attempt)

    def routing(self) -> dict[str, int]:
        """How often calls to model servers went where, over all of them (``ModelServerClient.decisions``)."""
        counts: dict[str, int] = {}
        for client in self.clients:
            for decision, count in getattr(client, "decisions", {}).items():
                counts[decision] = counts.get(decision, 0) + count
        return counts

    async def close(self) -> None:
        """Tear environments down, then close models."""
        try:
            for part in self.parts.values():
                await part.close()
                await part.runtime.close()
        finally:
            self._watchdog.close()
            await self._http.close()
            for client in self.clients:
                await client.close()


def metric_hooks(runtime: EnvironmentRuntime) -> MetricHooks:
    """What an environment adds to its metrics."""
    return MetricHooks(
        compute_metrics=runtime.compute_metrics if runtime.has_metrics else None,
        get_key_metrics=runtime.key_metrics if runtime.has_key_metrics else None,
        answer_key=runtime.cls.answer_key or None,
    )


def _rollout(assignment: Assignment, attempt: Attempt) -> Rollout:
    if attempt.response is None or attempt.stop_reason is None:
        raise AgentError("an attempt without a response cannot be judged")
    return Rollout(
        input_items(attempt.params.get("input") or []),
        attempt.response["output"],
        attempt.stop_reason,
        attempt.response,
        assignment.row,
        attempt.reward,
        attempt.fields,
    )


def load(reference: str) -> LoadedEnvironment:
    """The environment of an entry: a folder, a name, or ``module:Class``."""
    module, colon, name = reference.partition(":")
    if not colon or "/" in reference:
        return load_environment(reference)
    try:
        cls = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise InvalidSpec(f"environment {reference} does not import: {error}") from error
    return of_class(cls)


def load_or_stand_in(entry: Entry) -> LoadedEnvironment:
    """An entry's environment; one that is served, and whose code is not here, by what its manifest says of it.

    Its rows are then checked by the contract alone, its groups are not verified, and it has no metrics of its own.

    Raises:
        InputError: it cannot be had, and is not served.
    """
    if entry.image is None or not entry.served:
        try:
            return load(entry.environment)
        except EnvironmentNotFound:
            if not entry.served:
                raise
    says = {"version": entry.version or Environment.version, "images": entry.images}
    cls = type("Elsewhere", (_Elsewhere,), says)
    name = entry.environment.replace("-", "_")  # as a folder is called
    return LoadedEnvironment(cls, name, None, entry.image or "elsewhere")


class _Elsewhere(Environment):
    """Stands for an environment whose code is where it is served."""

    class Config(Model, extra="allow"):
        """Whatever it has."""

    def verify(self, rollout: Rollout) -> Verdict:
        """Never called: no session of it is held here."""
        raise NotImplementedError("this environment is served")


def of_class(cls: type[Environment]) -> LoadedEnvironment:
    """A class given in Python as a loaded environment; its digest covers the class's own source where there is one."""
    import inspect
    from hashlib import blake2b

    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # typed into an interpreter
        source = cls.__qualname__
    return LoadedEnvironment(cls, snake_case(cls.__name__), None, blake2b(source.encode(), digest_size=16).hexdigest())


def snake_case(name: str) -> str:
    """``MathWithCode`` -> ``math_with_code``."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def build_episodes(
    spec: RunSpec,
    *,
    classes: Mapping[str, LoadedEnvironment] | None = None,
    clients: Mapping[str, ModelClient] | None = None,
    on_call: OnCall | None = None,
    on_stall: Callable[[str, str], None] | None = None,
    limits: SessionLimits | None = None,
) -> LocalEpisodes:
    """Compose a run's environments and models. Nothing runs yet; ``start`` sets the environments up.

    Args:
        spec: the run.
        classes: environments given in Python, by entry.
        clients: models given in Python, by role; they win over the spec's, and stay their owner's to close.
        on_call: told of every model call.
        on_stall: told when environment code blocks the process for good; the default ends the process.
        limits: of the environments' hooks.

    Raises:
        InputError: an environment or model that cannot be had.
    """
    watchdog = Watchdog(on_stall or end_process)
    made: dict[str, ModelClient] = {}
    parts: dict[str, Part] = {}
    http = HttpClient()
    for entry in spec.entries:
        loaded = (classes or {}).get(entry.name) or load_or_stand_in(entry)
        runtime = EnvironmentRuntime(loaded.cls, entry.config, name=loaded.name, limits=limits, watchdog=watchdog)
        models: dict[str, ModelClient] = dict(clients or {})
        if not models and "policy" not in entry.models:
            raise InvalidSpec(
                f"{entry.name}: no policy model: give --base-url and --model, or --engine, or models.policy"
            )
        for role, ref in entry.models.items():
            if role in models or entry.agent_urls:  # the agent server has its own
                continue
            key = f"{role if ref.kind == 'server' else ''} {ref!r}"  # a model server is told what it plays
            if key not in made:
                made[key] = build_client(ref, concurrency=spec.concurrency, on_call=on_call, role=role)
            models[role] = made[key]
        parts[entry.name] = Part(entry, loaded, runtime, models, http, token_ids=spec.tokens != "None")
    return LocalEpisodes(parts, list(made.values()), watchdog, http)


def end_process(label: str, stack: str) -> None:
    """A hook is stuck where no exception reaches it: end this worker, so that the poison rule finds the rollout."""
    log.critical("%s does not react; ending the worker. Its stack:\n%s", label, stack)
    logging.shutdown()
    os._exit(STALLED_EXIT)


async def from_json(argument: dict[str, Any]) -> LocalEpisodes:
    """Factory for isolated children (``rollout.ChildSpec``): episodes of a RunSpec in JSON."""
    episodes = build_episodes(RunSpec.from_json(argument))
    await episodes.start()
    return episodes
