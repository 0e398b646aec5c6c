"""Carries out what was planned: the only place that writes to the API server.

Children first, the status after them, events last. Every write waits for its turn and is not made unless the lease is
fresh. What the server made of a write goes into the cache at once, so that the next look does not see the time before.

Three things a plan need not know:

- A workload's first write sets ``spec.replicas`` by apply, which makes us the field's only owner, and a later apply
  without it would reset it (DESIGN 5, rule 1). Before such an apply a second manager claims the field as it is, in
  exactly the version that was seen; as soon as somebody else has scaled the workload that is not needed any more.
- An object of the right name may be somebody else's. One that the watches do not show is looked at first.
- What differs although it has just been applied cannot be had: the server or another writer sees to it. The same apply
  is repeated only after the object has changed again, or two writers would keep each other busy for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from kubegym.core.ids import canonical_json, digest
from kubegym_operator.errors import Refusal, Refused
from kubegym_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, TooManyRequests
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.protocol import KubeApi, Object, ObjectKey, key_of
from kubegym_operator.plan.actions import Delete, Order, Patch, Plan, Scale
from kubegym_operator.plan.drift import differs
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Result
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.trim import MANAGER, SOLE_REPLICAS, edited_from
from kubegym_operator.reconcile.watched import WATCHED

log = logging.getLogger("kubegym.operator")

STATUS_MANAGER = "kubegym-status"
REPLICAS_MANAGER = "kubegym-replicas"
_REMEMBERED = 4096

T = TypeVar("T")


class _Step(NamedTuple):
    """A write of a child, which tells how many requests it took."""

    kind: str
    name: str
    run: Callable[[], Awaitable[int]]


def _makes_pods(obj: Object) -> bool:
    return obj["kind"] in ("Deployment", "LeaderWorkerSet", "Job", "ModelServer")


class Fence(Protocol):
    """Whether this process still leads."""

    def check(self) -> None:
        """Raises Fenced unless it surely does."""
        ...


class Control(Protocol):
    """Gives orders to pods."""

    async def give(self, order: Order) -> None:
        """Call a control port. Never raises."""
        ...


class Executor:
    """Executes plans.

    Args:
        api: the API server.
        cache: where the answers go.
        fence: asked before every write.
        limiter: waited for before every write.
        events: where events go.
        control: gives orders to pods.
    """

    def __init__(
        self,
        api: KubeApi,
        cache: Cache,
        fence: Fence,
        limiter: TokenBucket,
        events: EventRecorder,
        control: Control | None = None,
    ) -> None:
        self._control = control
        self._api = api
        self._cache = cache
        self._fence = fence
        self._limiter = limiter
        self._events = events
        self._futile: dict[ObjectKey, tuple[str, str]] = {}

    async def execute(self, owner: Object, plan: Plan) -> Result:
        """Do all of it for the reconciled object.

        Raises:
            Refused: the server does not take some of the children as they are; the status is not written.
            KubeError: a retryable failure, upon which everything is left for the next time.
            Fenced: the lease is too old.
        """
        wrote, refusals = await self._children(owner, plan)
        if refusals:
            raise Refused(refusals)
        if plan.orders and self._control is not None:
            self._fence.check()
            await asyncio.gather(*map(self._control.give, plan.orders))
        if plan.status is not None:
            wrote += await self._status(owner, plan.status)
        for event in plan.events:
            self._fence.check()
            wrote += await self._events.emit(owner, event.type, event.reason, event.message)
        return Result(plan.requeue_after, wrote)

    async def _children(self, owner: Object, plan: Plan) -> tuple[int, list[Refusal]]:
        """In stages, each at once: what pods need before what makes pods, so that a run's Job waits for two answers."""
        beside = [obj for obj in plan.creates if not _makes_pods(obj)]
        stages: list[list[_Step]] = [
            [_Step(o["kind"], o["metadata"]["name"], partial(self._apply, owner, o)) for o in plan.applies],
            [_Step(o["kind"], o["metadata"]["name"], partial(self._create, owner, o)) for o in beside],
            [
                _Step(o["kind"], o["metadata"]["name"], partial(self._create, owner, o))
                for o in plan.creates
                if _makes_pods(o)
            ],
            [_Step(p.kind[1], p.name, partial(self._patch, p)) for p in plan.patches],
            [_Step(s.kind[1], s.name, partial(self._scale, s)) for s in plan.scales],
            [_Step(d.kind[1], d.name, partial(self._delete, d)) for d in plan.deletes],
        ]
        wrote, refusals = 0, []
        for stage in stages:
            answers = await asyncio.gather(*(step.run() for step in stage), return_exceptions=True)
            for step, answer in zip(stage, answers, strict=True):
                if isinstance(answer, int):
                    wrote += answer
                elif isinstance(answer, KubeError) and not answer.retryable:
                    refusals.append(Refusal(step.kind, step.name, answer))
                else:
                    raise answer
        return wrote, refusals

    async def _apply(self, owner: Object, obj: Object) -> int:
        key, wrote = key_of(obj), 0
        known = self._cache.get(*key)
        if known is None and (hidden := await self._api.get(key.kind, key.namespace or None, key.name)) is not None:
            _refuse_foreign(owner, hidden)
        content = digest(canonical_json(obj))
        if known is not None:
            _refuse_foreign(owner, known)
            if self._futile.get(key) == (content, known["metadata"]["resourceVersion"]):
                return 0
            if known["metadata"].get(SOLE_REPLICAS):
                await self._claim_replicas(known)
                wrote = 1
        answer = await self._write(partial(self._api.apply, obj, manager=MANAGER))
        self._cache.put(answer)
        if differs(obj, answer) or edited_from(answer) is not None:
            self._remember(key, content, answer)
        return wrote + 1

    async def _create(self, owner: Object, obj: Object) -> int:
        key = key_of(obj)
        known = self._cache.get(*key)
        scales = "replicas" in (obj.get("spec") or {})
        if known is None and scales:
            known = await self._api.get(key.kind, key.namespace or None, key.name)
        if known is not None:
            _refuse_foreign(owner, known)
            self._cache.put(known)
            return 0
        request = partial(self._api.apply, obj, manager=MANAGER) if scales else partial(self._api.create, obj)
        try:
            answer = await self._write(request)
        except AlreadyExists:
            if key.kind not in WATCHED:
                return 1
            found = await self._api.get(key.kind, key.namespace or None, key.name)
            if found is None:
                raise Conflict(f"{key} comes and goes") from None
            _refuse_foreign(owner, found)
            answer = found
        self._cache.put(answer)
        return 1

    async def _patch(self, patch: Patch) -> int:
        with suppress(NotFound):
            request = partial(self._api.patch, patch.kind, patch.namespace, patch.name, patch.body)
            self._cache.put(await self._write(request))
        return 1

    async def _scale(self, scale: Scale) -> int:
        with suppress(NotFound):
            await self._write(partial(self._api.scale, scale.kind, scale.namespace, scale.name, scale.replicas))
        return 1

    async def _delete(self, delete: Delete) -> int:
        await self._write(partial(self._api.delete, delete.kind, delete.namespace, delete.name, uid=delete.uid))
        return 1

    async def _status(self, owner: Object, status: Object) -> int:
        key, content = key_of(owner), digest(canonical_json(status))
        known = self._cache.get(*key)
        if known is not None and self._futile.get(key) == (content, known["metadata"]["resourceVersion"]):
            return 0
        metadata = {name: owner["metadata"][name] for name in ("name", "namespace")}
        obj = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "metadata": metadata, "status": status}
        try:
            answer = await self._write(partial(self._api.apply_status, obj, manager=STATUS_MANAGER))
        except NotFound:
            return 1  # deleted meanwhile; nobody is left to read it
        self._cache.put(answer, own=True)
        if answer.get("status") != status:
            self._remember(key, content, answer)
        return 1

    async def _claim_replicas(self, known: Object) -> None:
        """Make ``spec.replicas`` of an object somebody else's, too, without changing it."""
        metadata = {name: known["metadata"][name] for name in ("name", "namespace", "resourceVersion")}
        obj = {"apiVersion": known["apiVersion"], "kind": known["kind"], "metadata": metadata}
        claim = {**obj, "spec": {"replicas": known["spec"]["replicas"]}}
        self._cache.put(await self._write(partial(self._api.apply, claim, manager=REPLICAS_MANAGER)))

    async def _write(self, request: Callable[[], Awaitable[T]]) -> T:
        await self._limiter.take()
        self._fence.check()
        try:
            return await request()
        except TooManyRequests as error:
            self._limiter.pause(error.retry_after)
            raise

    def _remember(self, key: ObjectKey, content: str, answer: Object) -> None:
        if len(self._futile) >= _REMEMBERED:
            self._futile.clear()
        self._futile[key] = (content, answer["metadata"]["resourceVersion"])
        log.debug("%s: the server keeps something else than what was applied", key)


def _refuse_foreign(owner: Object, found: Object) -> None:
    """Raises AlreadyExists where an object is not the owner's, Conflict where it is about to go."""
    mine = owner["metadata"]
    controller = next((r for r in found["metadata"].get("ownerReferences") or () if r.get("controller")), None)
    if found["metadata"].get("deletionTimestamp"):
        raise Conflict(f"{key_of(found)} is being deleted")
    if controller is not None and controller["uid"] == mine["uid"]:
        return
    if controller is not None and (controller["kind"], controller["name"]) == (owner["kind"], mine["name"]):
        raise Conflict(f"{key_of(found)} belongs to an earlier {owner['kind']} of this name and is being deleted")
    whose = f"belongs to {controller['kind']} {controller['name']}" if controller is not None else "is not ours"
    raise AlreadyExists(f"{key_of(found)} exists and {whose}: rename it or this {owner['kind']}", reason="NameInUse")
