"""Prometheus metrics of a model server (names: operator conventions; base units, ``_total``, ``_seconds``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kubegym.http.metrics import Histogram
from kubegym.model.queue import FairQueue

MOST_RUNS = 256
"""Runs, with the roles that asked for them, that are counted apart; those that asked longest ago become "other"."""

States = Callable[[], list[tuple[str, bool, int, int]]]
"""Of each upstream: URL, whether it is usable, calls in flight, rollouts that stay with it."""


class ModelServerMetrics(Collector):
    """Instruments of one model server, on a registry of their own.

    Args:
        states: asked at a scrape.
        queue: the calls that wait.
        decisions: how often a call went where, asked at a scrape.
    """

    def __init__(self, states: States, queue: FairQueue, decisions: Callable[[], dict[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self._states = states
        self._queue = queue
        self._decisions = decisions
        self._queued = Histogram()
        self._requests: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Histogram] = {}
        self._tokens: dict[tuple[str, str], list[int]] = {}
        self._in_flight = 0
        self.registry.register(self)

    def started(self) -> None:
        """A request began."""
        self._in_flight += 1

    def ended(self, route: str, outcome: str, seconds: float) -> None:
        """A request ended.

        Args:
            route: its path.
            outcome: the status, or "gone" where the client left, "cut" where a stream broke off.
            seconds: until the last byte was handed over.
        """
        self._in_flight -= 1
        key = (route, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._durations.get(route)
        if histogram is None:
            histogram = self._durations[route] = Histogram()
        histogram.observe(seconds)

    def waited(self, seconds: float) -> None:
        """A call was let in, after so long in the queue."""
        self._queued.observe(seconds)

    def using(self, run: str, role: str) -> Callable[[int, int], None]:
        """To be told the input and output tokens of a whole reply, by whom it was asked."""
        key = (run, role)
        tokens = self._tokens.pop(key, None) or [0, 0]
        self._tokens[key] = tokens  # in order of use
        if len(self._tokens) > MOST_RUNS:
            oldest = next(iter(self._tokens))
            others = self._tokens.pop(oldest)
            rest = self._tokens.setdefault(("other", ""), [0, 0])
            rest[0], rest[1] = rest[0] + others[0], rest[1] + others[1]

        def used(tokens_in: int, tokens_out: int) -> None:
            tokens[0] += tokens_in
            tokens[1] += tokens_out

        return used

    def collect(self) -> Iterator[Metric]:
        """The families, for a scrape."""
        requests = CounterMetricFamily(
            "kubegym_model_server_requests", "Requests by route and status.", labels=["route", "status"]
        )
        for (route, outcome), count in sorted(self._requests.items()):
            requests.add_metric([route, outcome], count)
        durations = HistogramMetricFamily(
            "kubegym_model_server_request_duration_seconds", "Duration of requests.", labels=["route"]
        )
        for route, histogram in sorted(self._durations.items()):
            histogram.add_to(durations, [route])
        tokens = CounterMetricFamily(
            "kubegym_model_server_tokens", "Tokens of whole replies.", labels=["kind", "run", "role"]
        )
        for (run, role), counts in self._tokens.items():
            for kind, count in zip(("input", "output"), counts, strict=True):
                tokens.add_metric([kind, run, role], count)
        yield from (requests, durations, tokens, *self._queue_families())
        yield GaugeMetricFamily("kubegym_model_server_in_flight", "Requests running now.", value=self._in_flight)
        up = GaugeMetricFamily("kubegym_model_upstream_up", "1 unless it keeps failing.", labels=["upstream"])
        calls = GaugeMetricFamily("kubegym_model_upstream_in_flight", "Calls running now.", labels=["upstream"])
        rollouts = GaugeMetricFamily("kubegym_model_upstream_rollouts", "Rollouts that stay.", labels=["upstream"])
        for url, usable, in_flight, users in self._states():
            up.add_metric([url], float(usable))
            calls.add_metric([url], in_flight)
            rollouts.add_metric([url], users)
        yield from (up, calls, rollouts)

    def _queue_families(self) -> Iterator[Metric]:
        queued = HistogramMetricFamily("kubegym_model_server_queue_seconds", "Time that calls waited for the engine.")
        self._queued.add_to(queued, [])
        yield queued
        yield GaugeMetricFamily("kubegym_model_server_waiting", "Calls that wait now.", value=self._queue.waiting)
        refused = CounterMetricFamily("kubegym_model_server_refused", "Calls that the queue had no place for.")
        refused.add_metric([], self._queue.refused)
        yield refused
        routing = CounterMetricFamily(
            "kubegym_model_routing", "Calls by how their replica was chosen, and replicas put out.", labels=["decision"]
        )
        for decision, count in self._decisions().items():
            routing.add_metric([decision], count)
        yield routing
