"""Prometheus metrics of a resources server (names: operator conventions; base units, ``_total``, ``_seconds``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kubegym.http.metrics import Histogram


class ResourcesServerMetrics(Collector):
    """Instruments of one process, on a registry of their own.

    Args:
        live: how many sessions there are; asked at a scrape.
        forwarded: how many requests went to their session's owner; asked at a scrape.
        process: which of the server's processes; empty where there is one. A scrape of a shared port meets any of
            them, so that each has series of its own.
    """

    def __init__(self, live: Callable[[], int], forwarded: Callable[[], int], process: str = "") -> None:
        self.registry = CollectorRegistry()
        self._live = live
        self._forwarded = forwarded
        self._process = process
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, Histogram] = {}
        self._ended = {"verified": 0, "closed": 0, "expired": 0, "failed": 0}
        self.registry.register(self)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._durations.get(route)
        if histogram is None:
            histogram = self._durations[route] = Histogram()
        histogram.observe(seconds)

    def ended(self, how: str) -> None:
        """A session ended: "verified", "closed", "expired", or "failed" to begin."""
        self._ended[how] += 1

    def collect(self) -> Iterator[Metric]:
        """The families, for a scrape."""
        names, values = (["process"], [self._process]) if self._process else ([], [])
        requests = CounterMetricFamily(
            "kubegym_resources_requests", "Requests by route and status.", labels=[*names, "route", "status"]
        )
        for (route, status), count in sorted(self._requests.items()):
            requests.add_metric([*values, route, str(status)], count)
        durations = HistogramMetricFamily(
            "kubegym_resources_request_duration_seconds", "Duration of requests.", labels=[*names, "route"]
        )
        for route, histogram in sorted(self._durations.items()):
            histogram.add_to(durations, [*values, route])
        ended = CounterMetricFamily("kubegym_resources_sessions_ended", "Ended sessions.", labels=[*names, "how"])
        for how, count in self._ended.items():
            ended.add_metric([*values, how], count)
        live = GaugeMetricFamily("kubegym_resources_sessions", "Live sessions.", labels=names)
        live.add_metric(values, self._live())
        forwarded = CounterMetricFamily(
            "kubegym_resources_forwarded_requests", "Requests sent on to their session's owner.", labels=names
        )
        forwarded.add_metric(values, self._forwarded())
        yield from (requests, durations, ended, live, forwarded)
