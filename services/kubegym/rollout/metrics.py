"""Prometheus metrics of a worker (names: operator conventions, section 7; base units, ``_total``, ``_seconds``)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kubegym.core.protocols import Attempt

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
_REWARDS = (-1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0, 5.0)


class WorkerMetrics:
    """Instruments of one worker, on a registry of their own so that several workers live in one process.

    Label children are looked up once: a lookup by label costs more than the increment.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        new = self.registry
        self._rollouts = Counter("kubegym_rollouts", "Settled rollouts.", ["outcome", "reason"], registry=new)
        self._retries = Counter("kubegym_rollout_retries", "Attempts that were made again.", ["reason"], registry=new)
        self._duration = Histogram(
            "kubegym_rollout_duration_seconds", "Duration of an attempt.", buckets=_SECONDS, registry=new
        )
        self._tokens = Counter("kubegym_rollout_tokens", "Tokens by kind.", ["kind"], registry=new)
        self._input, self._output = self._tokens.labels("input"), self._tokens.labels("output")
        self._reward = Histogram(
            "kubegym_rollout_reward", "Rewards of scored rollouts.", buckets=_REWARDS, registry=new
        )
        self._in_flight = Gauge("kubegym_rollouts_in_flight", "Rollouts running now.", registry=new)
        self._model = Histogram(
            "kubegym_model_request_duration_seconds",
            "Duration of a model call, waits left out.",
            buckets=_SECONDS,
            registry=new,
        )
        self._queue = Histogram(
            "kubegym_rollout_queue_seconds", "Time an attempt waited for capacity.", buckets=_SECONDS, registry=new
        )
        self._flush = Histogram("kubegym_shard_flush_seconds", "Duration of a flush.", buckets=_SECONDS, registry=new)
        self._conflicts = Counter("kubegym_shard_cas_conflicts", "Lost or repeated compare-and-swaps.", registry=new)
        self._scored = self._rollouts.labels("scored", "")

    def started(self) -> None:
        """A rollout began."""
        self._in_flight.inc()

    def ended(self) -> None:
        """A rollout ended."""
        self._in_flight.dec()

    def finished(self, attempt: Attempt, final: bool) -> None:
        """An attempt ended."""
        self._duration.observe(attempt.timing.get("total", 0.0))
        if queue := attempt.timing.get("queue"):
            self._queue.observe(queue)
        for usage in attempt.usage.values():
            self._input.inc(usage.get("input_tokens") or 0)
            self._output.inc(usage.get("output_tokens") or 0)
        reason = attempt.failure.reason if attempt.failure else ""
        if not final:
            self._retries.labels(reason).inc()
        elif attempt.reward is not None and attempt.outcome == "scored":
            self._scored.inc()
            self._reward.observe(attempt.reward)
        else:
            self._rollouts.labels(attempt.outcome, reason).inc()

    def model_call(self, seconds: float) -> None:
        """A model call ended."""
        self._model.observe(seconds)

    def flushed(self, seconds: float) -> None:
        """A flush ended."""
        self._flush.observe(seconds)

    def conflict(self) -> None:
        """A compare-and-swap did not answer plainly."""
        self._conflicts.inc()
