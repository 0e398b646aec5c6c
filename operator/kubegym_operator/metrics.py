"""Metrics of the operator (Prometheus), and figures of our objects as a collector over what is cached.

Durations are in seconds. The name of an object is a label of gauges only, never of a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Objects = Callable[[str], Iterable[dict[str, Any]]]
"""The objects of one of our kinds."""

Wanted = Callable[[], Mapping[tuple[str, str], int]]
"""Rollouts that runs want in flight, by namespace and name of the ModelServer."""

_RECONCILE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)
_READY_BUCKETS = (1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_PREFIX: Final = {"ModelServer": "modelserver", "GymEnvironment": "environment", "RolloutJob": "rolloutjob"}


@dataclass
class OperatorMetrics:
    """The instruments of one process."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Make the instruments."""
        to = self.registry
        self.reconciles = Counter(
            "kubegym_reconcile", "Reconciliations by how they ended", ["kind", "result"], registry=to
        )
        self.reconcile_seconds = Histogram(
            "kubegym_reconcile_duration_seconds",
            "How long reconciliations took",
            ["kind"],
            buckets=_RECONCILE_BUCKETS,
            registry=to,
        )
        self.requests = Counter(
            "kubegym_api_requests", "Requests to the API server", ["verb", "kind", "code"], registry=to
        )
        self.events = Counter("kubegym_watch_events", "Changes that the watches brought", ["kind"], registry=to)
        self.missed = Counter(
            "kubegym_watch_missed", "Changes that the watches had not brought and a resync found", ["kind"], registry=to
        )
        self.restarts = Counter("kubegym_watch_restarts", "How often watching began anew", registry=to)
        self.environment_ready = Histogram(
            "kubegym_environment_ready_duration_seconds",
            "From a GymEnvironment's creation to the first time it served",
            buckets=_READY_BUCKETS,
            registry=to,
        )
        self.leader = Gauge("kubegym_leader", "Whether this process leads", registry=to)
        self.resynced = Gauge(
            "kubegym_last_resync_timestamp_seconds", "When everything was last listed and compared", registry=to
        )
        build = Gauge("kubegym_build_info", "Always 1; the labels tell the version", ["version"], registry=to)
        from kubegym import __version__

        build.labels(__version__).set(1)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count a reconciliation."""
        self.reconciles.labels(kind, result).inc()
        self.reconcile_seconds.labels(kind).observe(seconds)

    def requested(self, verb: str, kind: str, code: str) -> None:
        """Count a request."""
        self.requests.labels(verb, kind, code).inc()


@dataclass(frozen=True)
class WorkQueueFigures:
    """What the queue tells at a scrape."""

    depth: int
    running: int
    adds: int
    retries: int
    oldest_age: float


class WorkQueueCollector(Collector):
    """The queue's figures."""

    def __init__(self, figures: Callable[[], WorkQueueFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """At a scrape."""
        now = self._figures()
        yield GaugeMetricFamily("kubegym_workqueue_depth", "Keys that are due and wait", now.depth)
        yield GaugeMetricFamily("kubegym_workqueue_running", "Keys in work", now.running)
        yield CounterMetricFamily("kubegym_workqueue_adds", "How often a key was asked for", now.adds)
        yield CounterMetricFamily("kubegym_workqueue_retries", "How often a key was tried again", now.retries)
        yield GaugeMetricFamily(
            "kubegym_workqueue_oldest_age_seconds", "Age of the key that is due for longest", now.oldest_age
        )


class ObjectsCollector(Collector):
    """Conditions and progress of our objects, as they are stored, and what runs want of model servers."""

    def __init__(self, objects: Objects, wanted: Wanted) -> None:
        self._objects = objects
        self._wanted = wanted

    def collect(self) -> Iterator[Metric]:
        """At a scrape."""
        for kind, prefix in _PREFIX.items():
            names = ["namespace", "name"]
            conditions = GaugeMetricFamily(
                f"kubegym_{prefix}_condition", f"Conditions of each {kind}: 1 where True", labels=[*names, "type"]
            )
            count = 0
            shards = GaugeMetricFamily("kubegym_rolloutjob_shards", "Shards of a run", labels=[*names, "state"])
            rollouts = GaugeMetricFamily("kubegym_rolloutjob_rollouts", "Rollouts of a run", labels=[*names, "outcome"])
            reward = GaugeMetricFamily(
                "kubegym_rolloutjob_reward_mean", "Mean reward of a run's scored rollouts", labels=names
            )
            for obj in self._objects(kind):
                count += 1
                where = [obj["metadata"]["namespace"], obj["metadata"]["name"]]
                status = obj.get("status") or {}
                for one in status.get("conditions") or ():
                    conditions.add_metric([*where, one["type"]], float(one["status"] == "True"))
                _add(shards, where, status.get("shards"))
                _add(rollouts, where, status.get("rollouts"))
                if (mean := status.get("rewardMean")) is not None:
                    reward.add_metric(where, float(mean))
            yield GaugeMetricFamily(f"kubegym_{prefix}s", f"How many objects of kind {kind} there are", count)
            yield conditions
            if kind == "RolloutJob":
                yield shards
                yield rollouts
                yield reward
        wanted = GaugeMetricFamily(
            "kubegym_modelserver_wanted_rollouts",
            "Rollouts that runs want in flight on a ModelServer, also on one that rests",
            labels=["namespace", "name"],
        )
        for key, count in self._wanted().items():
            wanted.add_metric(key, float(count))
        yield wanted


def _add(family: GaugeMetricFamily, where: list[str], counts: Any) -> None:
    for name, count in (counts or {}).items():
        family.add_metric([*where, name], float(count))


class ServingTimes:
    """How long environments took from their creation until they served for the first time that we saw."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._waiting: set[str] = set()

    def note(self, environment: dict[str, Any], *, gone: bool = False) -> None:
        """Look at an environment as it is now."""
        metadata = environment["metadata"]
        served = next((c for c in (environment.get("status") or {}).get("conditions") or () if _serves(c)), None)
        if served is None and not gone:
            self._waiting.add(metadata["uid"])
        elif metadata["uid"] in self._waiting:
            self._waiting.discard(metadata["uid"])
            if served is not None:
                began, ended = metadata["creationTimestamp"], served["lastTransitionTime"]
                self._observe((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


def _serves(condition: dict[str, Any]) -> bool:
    return bool(condition["type"] == "Serving" and condition["status"] == "True")
