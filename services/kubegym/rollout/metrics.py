"""Prometheus metrics of a worker (names: operator conventions, section 7; base units, ``_total``, ``_seconds``).

A rollout touches a dozen series. The library's instruments lock and look up at every touch, 10 µs a rollout; here the
worker's one thread counts in plain numbers, and metric families are made of them when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kubegym.core.protocols import Attempt

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
_REWARDS = (-1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0, 5.0)


class _Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("_bounds", "_counts", "_name", "_sum", "_text")

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self) -> HistogramMetricFamily:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        return HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


class WorkerMetrics(Collector):
    """Instruments of one worker, on a registry of their own so that several workers live in one process.

    Attributes:
        routing: asked at a scrape how often calls to models went where.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._outcomes: dict[tuple[str, str], int] = {}
        self._retries: dict[str, int] = {}
        self._tokens = {"input": 0, "output": 0}
        self.routing: Callable[[], Mapping[str, int]] = dict
        self._in_flight = 0
        self._conflicts = 0
        self._duration = _Histogram("kubegym_rollout_duration_seconds", "Duration of an attempt.", _SECONDS)
        self._queue = _Histogram("kubegym_rollout_queue_seconds", "Time an attempt waited for capacity.", _SECONDS)
        self._reward = _Histogram("kubegym_rollout_reward", "Rewards of scored rollouts.", _REWARDS)
        self._model = _Histogram(
            "kubegym_model_request_duration_seconds", "Duration of a model call, waits left out.", _SECONDS
        )
        self._flush = _Histogram("kubegym_shard_flush_seconds", "Duration of a flush.", _SECONDS)
        self.registry.register(self)

    def started(self) -> None:
        """A rollout began."""
        self._in_flight += 1

    def ended(self) -> None:
        """A rollout ended."""
        self._in_flight -= 1

    def finished(self, attempt: Attempt, final: bool) -> None:
        """An attempt ended; ``final`` when it is the rollout's result."""
        self._duration.observe(attempt.timing.get("total", 0.0))
        self._queue.observe(attempt.timing.get("queue", 0.0))
        tokens = self._tokens
        for usage in attempt.usage.values():
            tokens["input"] += usage.get("input_tokens") or 0
            tokens["output"] += usage.get("output_tokens") or 0
        reason = attempt.failure.reason if attempt.failure else ""
        if not final:
            self._retries[reason] = self._retries.get(reason, 0) + 1
            return
        key = (attempt.outcome, reason)
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        if attempt.reward is not None:
            self._reward.observe(attempt.reward)

    def model_call(self, seconds: float) -> None:
        """A model call ended."""
        self._model.observe(seconds)

    def flushed(self, seconds: float) -> None:
        """A flush ended."""
        self._flush.observe(seconds)

    def conflict(self) -> None:
        """A compare-and-swap was lost, or had to be looked at again."""
        self._conflicts += 1

    def collect(self) -> Iterator[Metric]:
        """The families, for a scrape."""
        rollouts = CounterMetricFamily("kubegym_rollouts", "Settled rollouts.", labels=["outcome", "reason"])
        for (outcome, reason), count in sorted(self._outcomes.items()):
            rollouts.add_metric([outcome, reason], count)
        retries = CounterMetricFamily("kubegym_rollout_retries", "Attempts that were made again.", labels=["reason"])
        for reason, count in sorted(self._retries.items()):
            retries.add_metric([reason], count)
        tokens = CounterMetricFamily("kubegym_rollout_tokens", "Tokens by kind.", labels=["kind"])
        for kind, count in self._tokens.items():
            tokens.add_metric([kind], count)
        routing = CounterMetricFamily(
            "kubegym_model_routing", "Calls by how their replica was chosen, and replicas put out.", labels=["decision"]
        )
        for decision, count in self.routing().items():
            routing.add_metric([decision], count)
        yield from (rollouts, retries, tokens, routing)
        yield GaugeMetricFamily("kubegym_rollouts_in_flight", "Rollouts running now.", value=self._in_flight)
        yield CounterMetricFamily(
            "kubegym_shard_cas_conflicts", "Lost or repeated compare-and-swaps.", value=self._conflicts
        )
        for histogram in (self._duration, self._queue, self._reward, self._model, self._flush):
            yield histogram.family()
