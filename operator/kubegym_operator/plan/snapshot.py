"""What a reconciliation decides from: one object of ours and everything that bears on it, as observed.

Snapshots are values. Objects in them are plain data from the cache, shared and never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubegym_operator.api import GymEnvironment, ModelServer, RolloutJob
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.times import rfc3339, seconds

_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")

ServerKey = tuple[str, str]
"""Namespace and name of a ModelServer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A real request that a part has to answer before it counts as serving.

    Attributes:
        component: which part is asked (``build.labels.Component``).
        addresses: addresses of its ready pods, ``10.0.0.7``; the first that answers will do.
        port: where it listens.
        path: what is asked for.
    """

    component: str
    addresses: tuple[str, ...]
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        ok: it was the answer of a server that serves.
        message: what was wrong.
        policy_version: of the weights that a model server serves, where it says so.
        last_request: wall-clock seconds of the last request that it served, where it says so.
    """

    ok: bool
    message: str = ""
    policy_version: int | None = None
    last_request: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a replica's model server says of its weights, ready or not.

    Attributes:
        version: that it serves.
        phase: of an exchange that goes on; None: there is none.
        failed: the version that it could not take at last.
        reason: why.
        message: the same for a person.
        retryable: whether trying again, unchanged, may help.
        restart: it serves nobody, and asks to be started anew.
    """

    version: int | None = None
    phase: str | None = None
    failed: int | None = None
    reason: str = ""
    message: str = ""
    retryable: bool = False
    restart: bool = False

    @classmethod
    def from_json(cls, raw: Any) -> Told | None:
        """From ``/readyz``; None where it says nothing of weights. What has another type is left out."""
        weights = raw.get("weights") if isinstance(raw, Mapping) else None
        if not isinstance(weights, Mapping):
            return None
        failure = weights.get("failure")
        failure = failure if isinstance(failure, Mapping) else {}
        return cls(
            version=_version(raw.get("policyVersion")),
            phase=_text(weights.get("phase")),
            failed=_version(failure.get("version")),
            reason=_text(failure.get("reason")) or "",
            message=_text(failure.get("message")) or "",
            retryable=failure.get("retryable") is True,
            restart=weights.get("restart") is True,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What one worker told about the whole run (``/progress?scope=run``), as it lies in the status."""

    plan_digest: str | None = None
    shards: Mapping[str, int] = field(default_factory=dict)
    rollouts: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    reward_mean: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    throughput: str | None = None
    last_progress_time: str | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Progress:
        """From a worker's reply, or from the finaliser's last words; what has another type is left out."""
        return cls(
            plan_digest=_text(raw.get("planDigest")),
            shards=_counts(raw.get("shards"), ("total", "committed", "active")),
            rollouts=_counts(raw.get("rollouts"), ("expected", "scored", "unscored", "failed")),
            failures=_counts(raw.get("failures")),
            reward_mean=_decimal(raw.get("rewardMean")),
            tokens=_counts(raw.get("tokens"), ("input", "output")),
            throughput=_decimal(raw.get("throughput")),
            last_progress_time=_time(raw.get("lastProgressTime")),
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API server knows besides the kinds that every cluster has.

    ``local_queue``: the queue that something waits for; None where there is none. Not looked at while nothing waits.
    """

    leader_worker_set: bool = False
    kueue: bool = False
    local_queue: Object | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a RolloutJob asks of a model server.

    Attributes:
        job: its name.
        slots: rollouts that its workers may have in flight.
        remaining: rollouts without a result; None before the plan is made.
    """

    job: str
    slots: int
    remaining: int | None = None

    @property
    def in_flight(self) -> int:
        """Rollouts in flight at most: in the tail of a run no more than are left."""
        return self.slots if self.remaining is None else min(self.slots, self.remaining)


@dataclass(frozen=True, slots=True)
class ModelServerSnapshot:
    """A ModelServer.

    Attributes:
        raw, server: as stored, and typed.
        children: what it owns.
        pods: of its components.
        loads: the RolloutJobs that want it now, and how much of it (``plan.demand``).
        config_digests: of the ConfigMaps that its podTemplate names.
        names_config_maps: whether there are any, found or not: nobody watches them, so that they are looked at again.
        cluster: what is installed.
        answers: by component, to the questions that were asked.
        told: what replicas say of their weights, by address, where they are exchanged.
        now: wall-clock seconds.
    """

    raw: Object
    server: ModelServer
    children: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    loads: tuple[Load, ...] = ()
    config_digests: Mapping[str, str] = field(default_factory=dict)
    names_config_maps: bool = False
    cluster: Cluster = Cluster()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    told: Mapping[str, Told] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class EnvironmentSnapshot:
    """A GymEnvironment.

    Attributes:
        raw, environment: as stored, and typed.
        children: what it owns, inline ModelServers included.
        pods: of its components.
        servers: the ModelServers of its roles that exist, by namespace and name.
        permitted: the ModelServers of other namespaces whose ``consumers`` include this namespace.
        active_jobs: names of the RolloutJobs that want it now.
        config_digests: of the ConfigMaps that its podTemplates name.
        names_config_maps: whether there are any, found or not: nobody watches them, so that they are looked at again.
        token: random text for a session Secret, used only where one has to be made.
        answers: by component, to the questions that were asked.
        now: wall-clock seconds.
    """

    raw: Object
    environment: GymEnvironment
    children: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    servers: Mapping[ServerKey, Object] = field(default_factory=dict)
    permitted: frozenset[ServerKey] = frozenset()
    active_jobs: tuple[str, ...] = ()
    config_digests: Mapping[str, str] = field(default_factory=dict)
    names_config_maps: bool = False
    token: str = ""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class RolloutJobSnapshot:
    """A RolloutJob.

    Attributes:
        raw, job: as stored, and typed.
        children: what it owns.
        pods: of its workers and its finaliser.
        environments: by the *name* that entries refer to; absent ones are missing.
        servers: the ModelServers that its entries use, by namespace and name.
        permitted: the ModelServers of other namespaces whose ``consumers`` include this namespace.
        progress: fresh from a worker; None when none was asked or none answered.
        progress_due: whether what nobody decides by may be written now: figures, and words about waiting (every 30 s).
        progress_after: seconds until it may be written again.
        refusal: what the Job controller said when it could not create pods.
        cluster: what is installed.
        now: wall-clock seconds.
    """

    raw: Object
    job: RolloutJob
    children: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    environments: Mapping[str, Object] = field(default_factory=dict)
    servers: Mapping[ServerKey, Object] = field(default_factory=dict)
    permitted: frozenset[ServerKey] = frozenset()
    progress: Progress | None = None
    progress_due: bool = True
    progress_after: float = 30.0
    refusal: str | None = None
    cluster: Cluster = Cluster()
    now: float = 0.0


# The API server refuses a whole status for one field that breaks its schema, so what is told is bounded here.


def _version(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value[:253] if isinstance(value, str) and value else None


def _decimal(value: Any) -> str | None:
    """A decimal number of at most 32 characters."""
    return value if isinstance(value, str) and len(value) <= 32 and _DECIMAL.fullmatch(value) else None


def _time(value: Any) -> str | None:
    """An RFC 3339 time, in whole seconds."""
    moment = seconds(value) if isinstance(value, str) else None
    return rfc3339(moment) if moment is not None else None


def _counts(value: Any, names: tuple[str, ...] | None = None) -> dict[str, int]:
    """Whole numbers from 0 by name; at most 64 of them, whatever a worker says."""
    if not isinstance(value, Mapping):
        return {}
    kept = {
        str(key)[:63]: count
        for key, count in sorted(value.items())
        if isinstance(count, int)
        and not isinstance(count, bool)
        and 0 <= count < 2**63
        and (names is None or key in names)
    }
    return dict(list(kept.items())[:64])
