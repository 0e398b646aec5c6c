"""Prometheus metrics of a model server (names: operator conventions; base units, ``_total``, ``_seconds``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kubegym.http.metrics import Histogram

States = Callable[[], list[tuple[str, bool, int, int]]]
"""Of each upstream: URL, whether it is usable, calls in flight, rollouts that stay with it."""


class ModelServerMetrics(Collector):
    """Instruments of one model server, on a registry of their own.

    Args:
        states: asked at a scrape.
    """

    def __init__(self, states: States) -> None:
        self.registry = CollectorRegistry()
        self._states = states
        self._requests: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Histogram] = {}
        self._tokens = {"input": 0, "output": 0}
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

    def used(self, tokens_in: int, tokens_out: int) -> None:
        """Tokens of a whole reply."""
        self._tokens["input"] += tokens_in
        self._tokens["output"] += tokens_out

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
        tokens = CounterMetricFamily("kubegym_model_server_tokens", "Tokens of whole replies.", labels=["kind"])
        for kind, count in self._tokens.items():
            tokens.add_metric([kind], count)
        yield from (requests, durations, tokens)
        yield GaugeMetricFamily("kubegym_model_server_in_flight", "Requests running now.", value=self._in_flight)
        up = GaugeMetricFamily("kubegym_model_upstream_up", "1 unless it keeps failing.", labels=["upstream"])
        calls = GaugeMetricFamily("kubegym_model_upstream_in_flight", "Calls running now.", labels=["upstream"])
        rollouts = GaugeMetricFamily("kubegym_model_upstream_rollouts", "Rollouts that stay.", labels=["upstream"])
        for url, usable, in_flight, users in self._states():
            up.add_metric([url], float(usable))
            calls.add_metric([url], in_flight)
            rollouts.add_metric([url], users)
        yield from (up, calls, rollouts)
