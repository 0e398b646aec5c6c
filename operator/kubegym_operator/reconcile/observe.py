"""Snapshots: from the cache, which is shared, and where it has to be from the API server and from pods."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from kubegym.core.clock import Clock
from kubegym_operator.api import GymEnvironment, ModelServer, RolloutJob
from kubegym_operator.build.labels import OWNER_NAME, content_digest
from kubegym_operator.kube.errors import Forbidden, KubeError
from kubegym_operator.kube.protocol import Kind, KubeApi, Object
from kubegym_operator.plan.demand import (
    finished,
    jobs_of_environment,
    loads_of_server,
    servers_of_environment,
    servers_of_job,
)
from kubegym_operator.plan.environment import environment_questions
from kubegym_operator.plan.modelserver import model_server_questions, weights_question
from kubegym_operator.plan.objects import JOB, LEADER_WORKER_SET, POD, of_kind, spec_of, status_of, typed
from kubegym_operator.plan.rolloutjob import wants_progress
from kubegym_operator.plan.selectors import selects
from kubegym_operator.plan.snapshot import (
    Answer,
    Cluster,
    EnvironmentSnapshot,
    ModelServerSnapshot,
    Question,
    RolloutJobSnapshot,
    ServerKey,
)
from kubegym_operator.plan.times import seconds
from kubegym_operator.reconcile import references
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.pace import Pace
from kubegym_operator.reconcile.probe import Prober, ProgressReader
from kubegym_operator.reconcile.watched import CHILDREN, MODEL_SERVER

REFUSED_AFTER: Final = 10.0
"""Seconds after which a Job without pods makes us ask for its events."""

_CONFIG_MAP: Final = Kind("v1", "ConfigMap")
_NAMESPACE: Final = Kind("v1", "Namespace")
_EVENT: Final = Kind("events.k8s.io/v1", "Event")
_QUEUES: Final = tuple(Kind(f"kueue.x-k8s.io/{version}", "LocalQueue") for version in ("v1beta2", "v1beta1"))
_NAMERS: Final = ("configMap", "configMapRef", "configMapKeyRef")
"""Fields of pod specs that name a ConfigMap."""


class Observer:
    """Observes.

    Args:
        cache: made with ``references.INDICES``.
        api: for what is not watched.
        prober: asks servers.
        progress: asks workers.
        clock: wall-clock time.
    """

    def __init__(self, cache: Cache, api: KubeApi, prober: Prober, progress: ProgressReader, clock: Clock) -> None:
        self._cache = cache
        self._api = api
        self._prober = prober
        self._progress = progress
        self._clock = clock
        self._pace = Pace()

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._pace.forget(key)

    def now(self) -> float:
        """Wall-clock seconds."""
        return self._clock.time()

    async def model_server(self, raw: Object) -> ModelServerSnapshot:
        """Everything that bears on a ModelServer. Raises InvalidSpec."""
        server = typed(raw)
        assert isinstance(server, ModelServer)
        jobs, environments = references.users_of_server(self._cache, raw)
        lws = server.spec.parallelism.nodes > 1 and await self._api.serves(LEADER_WORKER_SET)
        pods = self._pods(raw)
        gated = any(spec_of(pod).get("schedulingGates") for pod in pods)
        queue = server.spec.queue.name if server.spec.queue is not None else None
        snapshot = ModelServerSnapshot(
            raw,
            server,
            children=self._children(raw),
            pods=pods,
            loads=loads_of_server(raw, jobs, environments),
            config_digests=await self._config_digests(raw),
            names_config_maps=any(_config_maps_named(spec_of(raw))),
            cluster=replace(await self._queue(raw, queue, waits=gated), leader_worker_set=lws),
            now=self._clock.time(),
        )
        told = await self._prober.tell(question) if (question := weights_question(snapshot)) is not None else {}
        return replace(snapshot, answers=await self._ask(model_server_questions(snapshot)), told=told)

    async def environment(self, raw: Object) -> EnvironmentSnapshot:
        """Everything that bears on a GymEnvironment. Raises InvalidSpec."""
        environment = typed(raw)
        assert isinstance(environment, GymEnvironment)
        servers = self._servers(servers_of_environment(raw))
        snapshot = EnvironmentSnapshot(
            raw,
            environment,
            children=self._children(raw),
            pods=self._pods(raw),
            servers=servers,
            permitted=await self._permitted(raw, servers),
            active_jobs=jobs_of_environment(raw, references.jobs_of_environment(self._cache, raw)),
            config_digests=await self._config_digests(raw),
            names_config_maps=any(_config_maps_named(spec_of(raw))),
            token=secrets.token_urlsafe(32),
            now=self._clock.time(),
        )
        return replace(snapshot, answers=await self._ask(environment_questions(snapshot)))

    async def rollout_job(self, key: Key, raw: Object) -> RolloutJobSnapshot:
        """Everything that bears on a RolloutJob. Raises InvalidSpec."""
        job = typed(raw)
        assert isinstance(job, RolloutJob)
        children = self._children(raw)
        held = any(spec_of(child).get("suspend") for child in of_kind(children, JOB))
        queue = job.spec.queue.name if job.spec.queue is not None else None
        environments = references.environments_of(self._cache, raw)
        servers = self._servers(servers_of_job(raw, environments))
        now = self._clock.time()
        if finished(raw):
            self._pace.forget(key)
            wait = 0.0
        else:
            wait = self._pace.wait(key, now)
        snapshot = RolloutJobSnapshot(
            raw,
            job,
            children=children,
            pods=self._pods(raw),
            environments=environments,
            servers=servers,
            permitted=await self._permitted(raw, servers),
            progress_due=wait == 0.0,
            progress_after=wait or self._pace.period,
            cluster=await self._queue(raw, queue, waits=held),
            now=now,
        )
        snapshot = replace(snapshot, refusal=await self._refusal(snapshot))
        if not snapshot.progress_due:
            return snapshot
        addresses = wants_progress(snapshot)
        return replace(snapshot, progress=await self._progress.read(addresses)) if addresses else snapshot

    def _children(self, raw: Object) -> tuple[Object, ...]:
        metadata = raw["metadata"]
        return tuple(
            obj
            for kind in (*CHILDREN, MODEL_SERVER)
            if kind.kind != POD.kind
            for obj in self._cache.list(kind, metadata["namespace"], owner_uid=metadata["uid"])
        )

    def _pods(self, raw: Object) -> tuple[Object, ...]:
        metadata = raw["metadata"]
        labels = {OWNER_NAME[raw["kind"]]: metadata["name"]}
        return tuple(self._cache.list(POD, metadata["namespace"], labels=labels))

    def _servers(self, keys: Iterable[ServerKey]) -> dict[ServerKey, Object]:
        found = {key: self._cache.get(MODEL_SERVER, *key) for key in keys}
        return {key: server for key, server in found.items() if server is not None}

    async def _permitted(self, raw: Object, servers: Mapping[ServerKey, Object]) -> frozenset[ServerKey]:
        """ModelServers of other namespaces whose consumers include the namespace of an object."""
        home = raw["metadata"]["namespace"]
        abroad = {key: server for key, server in servers.items() if key[0] != home}
        if not abroad:
            return frozenset()
        try:
            namespace = await self._api.get(_NAMESPACE, None, home)
        except Forbidden:  # an operator of single namespaces sees no Namespace
            return frozenset()
        labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
        return frozenset(key for key, server in abroad.items() if selects(_consumers(server), labels))

    async def _config_digests(self, raw: Object) -> dict[str, str]:
        """Contents of the ConfigMaps that podTemplates name; they are their users' and not watched."""
        named = set(_config_maps_named(spec_of(raw)))
        found = {}
        for name in sorted(named):
            config_map = await self._api.get(_CONFIG_MAP, raw["metadata"]["namespace"], name)
            if config_map is not None:
                found[name] = content_digest(config_map.get("data"), config_map.get("binaryData"))
        return found

    async def _queue(self, raw: Object, name: str | None, *, waits: bool) -> Cluster:
        """Whether Kueue is there, and the queue of that name where something waits for it."""
        if name is None:
            return Cluster()
        for kind in _QUEUES:
            if await self._api.serves(kind):
                return Cluster(kueue=True, local_queue=await self._local_queue(kind, raw, name) if waits else {})
        return Cluster()

    async def _local_queue(self, kind: Kind, raw: Object, name: str) -> Object | None:
        try:
            return await self._api.get(kind, raw["metadata"]["namespace"], name)
        except Forbidden:  # roles that somebody grants by hand: then it is not known that there is none
            return {}

    async def _ask(self, questions: Iterable[Question]) -> dict[str, Answer]:
        return {question.component: await self._prober.ask(question) for question in questions}

    async def _refusal(self, snapshot: RolloutJobSnapshot) -> str | None:
        """What the Job controller says about pods that it may not create: it tells that by events only."""
        for job in of_kind(snapshot.children, JOB):
            status = status_of(job)
            since = seconds(status.get("startTime"))
            if since is None or snapshot.now - since < REFUSED_AFTER or spec_of(job).get("suspend"):
                continue
            if any(status.get(count) for count in ("active", "succeeded", "failed", "ready")):
                continue
            try:
                events = await self._api.list(_EVENT, job["metadata"]["namespace"])
            except KubeError:
                return None
            notes = [e for e in events if _about(e, job) and e.get("reason") == "FailedCreate"]
            if notes:
                return str(max(notes, key=lambda e: str(e["metadata"].get("creationTimestamp"))).get("note"))
        return None


def _about(event: Object, obj: Object) -> bool:
    regarding: Mapping[str, Any] = event.get("regarding") or {}
    return bool(regarding.get("uid") == obj["metadata"]["uid"])


def _consumers(server: Object) -> Mapping[str, Any] | None:
    consumers: Mapping[str, Any] = spec_of(server).get("consumers") or {}
    return consumers.get("namespaceSelector")


def _config_maps_named(value: Any, *, inside: bool = False) -> Iterator[str]:
    """Names of ConfigMaps in the ``podTemplate`` overlays of a spec."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if inside and key in _NAMERS and isinstance(each, Mapping) and isinstance(each.get("name"), str):
                yield each["name"]
            yield from _config_maps_named(each, inside=inside or key == "podTemplate")
    elif isinstance(value, list):
        for each in value:
            yield from _config_maps_named(each, inside=inside)
