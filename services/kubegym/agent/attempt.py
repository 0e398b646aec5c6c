"""One attempt of one rollout: seed, converse, verify, and say how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kubegym.agent.driver import SeedSource, Transcript, run_conversation
from kubegym.agent.step import DEFAULT_MAX_STEPS, LoopLimits
from kubegym.core.clock import Deadline
from kubegym.core.errors import AgentError, RolloutError, VerifierError
from kubegym.core.messages import input_items
from kubegym.core.outcomes import TRUNCATED, StopReason
from kubegym.core.protocols import Assignment, Attempt, CallContext, ModelClient, Session
from kubegym.core.trajectory import Rollout, Verdict

_log = logging.getLogger(__name__)

MESSAGE_CHARACTERS = 4000
"""A failure's message is cut to this."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How attempts of an environment entry are made; the manifest's agent, sampling and limits.

    Attributes:
        max_steps: model calls of a rollout; None means 1000.
        max_total_tokens: see ``LoopLimits``.
        max_silent: see ``LoopLimits``.
        deadline_seconds: a rollout's own time, from seed to verdict.
        stall_seconds: how much waiting for capacity may move the deadline.
        seed: the run's seed; None sends none, so that a task's rollouts differ.
        overrides: Responses create-params that win over the row's own; ``metadata`` is merged by key.
        on_truncated: whether a truncated conversation is verified or left unscored.
        verify: False leaves every rollout unscored, marked ``verification_skipped`` (contract 1.3).
        token_ids: whether calls ask for token ids and log-probs.
    """

    max_steps: int | None = None
    max_total_tokens: int | None = None
    max_silent: int = 8
    deadline_seconds: float = 3600.0
    stall_seconds: float = 3600.0
    seed: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    on_truncated: Literal["Verify", "Skip"] = "Verify"
    verify: bool = True
    token_ids: bool = False


async def run_attempt(assignment: Assignment, session: Session, model: ModelClient, settings: AgentSettings) -> Attempt:
    """Make one attempt with a fresh session, which is closed afterwards.

    A failed attempt is a value, with the part of the response that exists; only cancellation is raised.
    """
    try:
        return await attempted(_Looped(assignment, session, model, settings))
    finally:
        model.leave(assignment.rollout_id)


async def attempted(run: Conversation) -> Attempt:
    """Make an attempt whose conversation is to be had. Only cancellation is raised."""
    try:
        return await run.to_verdict()
    except RolloutError as error:
        return run.failed(error)
    except Exception as error:
        _log.exception("the agent crashed", extra={"rollout_id": run.assignment.rollout_id})
        return run.failed(AgentError(f"{type(error).__name__}: {error}", reason="AgentCrashed"))
    finally:
        await run.session.close()


def apply_verdict(attempt: Attempt, verdict: Verdict) -> None:
    """Write a verdict into an attempt that did not fail, over an earlier one's (``verify_group``).

    Raises:
        VerifierError: "VerifierInvalidVerdict", where it has not one turn reward a model call.
    """
    rewards = verdict.turn_rewards
    if rewards and len(rewards) != len(attempt.turns):
        raise VerifierError(
            f"the verdict has {len(rewards)} turn_rewards for {len(attempt.turns)} turns (one a model call)",
            reason="VerifierInvalidVerdict",
        )
    attempt.outcome = "unscored" if verdict.reward is None else "scored"
    attempt.reward = verdict.reward
    attempt.components = verdict.components
    attempt.fields = {**attempt.fields, **verdict.fields, **verdict.metrics}
    for turn, reward in zip(attempt.turns, rewards, strict=False):
        turn["reward"] = reward


class Conversation:
    """An attempt while it runs; how the conversation is had, a harness says (``converse``)."""

    __slots__ = (
        "assignment",
        "deadline",
        "loop",
        "params",
        "session",
        "settings",
        "started",
        "stop_reason",
        "transcript",
        "verify_seconds",
    )

    def __init__(self, assignment: Assignment, session: Session, settings: AgentSettings) -> None:
        self.assignment = assignment
        self.session = session
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.deadline = session.deadline = Deadline(settings.deadline_seconds, settings.stall_seconds)
        self.params: dict[str, Any] = {}
        self.transcript = Transcript([])
        self.stop_reason: StopReason | None = None
        self.verify_seconds = 0.0

    async def to_verdict(self) -> Attempt:
        """Converse within the deadline, and let the session judge. Raises RolloutError."""
        scope = self.deadline.timeout()
        try:
            async with scope:
                await self.converse()
                if not self.settings.verify:
                    return self.ended(Verdict(None, fields={"verification_skipped": True}))
                if self.settings.on_truncated == "Skip" and self.stop_reason in TRUNCATED:
                    return self.ended(Verdict(None))
                return self.ended(await self.verify())
        except TimeoutError as error:
            if not scope.expired():
                raise
            self.stop_reason = "deadline"
            seconds = self.settings.deadline_seconds
            raise AgentError(f"the rollout used up its {seconds:g} s", reason="DeadlineExceeded") from error

    async def converse(self) -> None:
        """Have the conversation: fill the transcript, and say why it ended. Raises RolloutError."""
        raise NotImplementedError

    async def begin(self) -> None:
        """Seed the session; the create-params and the first input are known then."""
        settings, assignment, session = self.settings, self.assignment, self.session
        known = session.tools()
        self.params = params = request_params(assignment.row, known, settings.overrides)
        self.transcript.input = input_items(params.get("input") or [])
        seeded = await session.seed()
        told = session.tools()  # the seed may bring them, and a session behind HTTP learns all of them from it
        if told and told is not known and (params.get("tools") is None or params["tools"] is known):
            params["tools"] = told
        if seeded:
            self.transcript.input += seeded
            params["input"] = self.transcript.input

    def seeds(self) -> SeedSource | None:
        """Where the calls' seeds come from; None sends none."""
        seed, assignment = self.settings.seed, self.assignment
        return None if seed is None else SeedSource(seed, assignment.task_id, assignment.rollout_index)

    async def verify(self) -> Verdict:
        """The session's verdict on the transcript."""
        response = self.transcript.response()
        assert self.stop_reason is not None, "a finished conversation says why"
        assert response is not None, "a conversation begins with a model call"
        rollout = Rollout(
            self.transcript.input, self.transcript.output, self.stop_reason, response, self.assignment.row
        )
        started = self.loop.time()
        try:
            verdict = await self.session.verify(rollout)
        finally:
            self.verify_seconds = self.loop.time() - started
        return verdict

    def ended(self, verdict: Verdict) -> Attempt:
        """Scored, or unscored where the verdict has no reward."""
        attempt = self._attempt("unscored")
        apply_verdict(attempt, verdict)
        return attempt

    def failed(self, error: RolloutError) -> Attempt:
        """Failed, with what there is."""
        attempt = self._attempt("failed")
        failure = error.failure(self.assignment.attempt)
        # What others raise may be megabytes, or text that no row can hold.
        message = failure.message[:MESSAGE_CHARACTERS].encode(errors="replace").decode()
        attempt.failure = replace(failure, message=message) if message != failure.message else failure
        return attempt

    def _attempt(self, outcome: Literal["scored", "unscored", "failed"]) -> Attempt:
        transcript = self.transcript
        usage = {"policy": transcript.tokens} if transcript.tokens else {}
        if self.session.usage:
            usage |= self.session.usage
        return Attempt(
            outcome,
            stop_reason=self.stop_reason,
            response=transcript.response(),
            params=self.params,
            usage=usage,
            timing={
                "queue": round(transcript.queue_seconds, 6),
                "model": round(transcript.model_seconds, 6),
                "tool": round(transcript.tool_seconds, 6),
                "verify": round(self.verify_seconds, 6),
                "total": round(self.loop.time() - self.started, 6),
            },
            turns=transcript.turns,
            seed=self.settings.seed,
            tokens=transcript.samples,
        )


class _Looped(Conversation):
    """An attempt whose conversation is a loop over model, tools and environment."""

    __slots__ = ("model",)

    def __init__(self, assignment: Assignment, session: Session, model: ModelClient, settings: AgentSettings) -> None:
        super().__init__(assignment, session, settings)
        self.model = model

    async def converse(self) -> None:
        await self.begin()
        settings = self.settings
        limits = LoopLimits(
            settings.max_steps or DEFAULT_MAX_STEPS,
            settings.max_total_tokens,
            settings.max_silent,
            self.session.multi_turn,
        )
        context = CallContext(self.assignment.rollout_id, self.deadline, token_ids=settings.token_ids)
        self.stop_reason = await run_conversation(
            self.params, self.transcript, self.session, self.model, limits, context, self.seeds()
        )


def request_params(row: Mapping[str, Any], tools: list[dict[str, Any]], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The row's create-params with the run's overrides, and the environment's tools unless the row has its own.

    A row that says ``tools: []`` has its own: none.
    """
    params = {**row["responses_create_params"]} if row.get("responses_create_params") else {}
    if tools and params.get("tools") is None:
        params["tools"] = tools
    if overrides:
        metadata = {**(params.get("metadata") or {}), **(overrides.get("metadata") or {})}
        params.update(overrides)
        if metadata:
            params["metadata"] = metadata
    return params
