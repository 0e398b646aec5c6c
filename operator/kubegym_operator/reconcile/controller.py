"""Observe, plan, execute: one object at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api.reasons import Reason
from kubegym_operator.build.context import BuildContext
from kubegym_operator.errors import Refusal, Refused
from kubegym_operator.kube.errors import AlreadyExists, Forbidden, Invalid
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.actions import Plan
from kubegym_operator.plan.environment import plan_environment
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.modelserver import plan_model_server
from kubegym_operator.plan.objects import deleting
from kubegym_operator.plan.status import stalled_status
from kubegym_operator.plan.steps import plan_rollout_job, plan_stuck_job
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key, Result
from kubegym_operator.reconcile.observe import Observer
from kubegym_operator.reconcile.watched import OWN

TRY_AGAIN: Final = 60.0
"""Seconds until what the API server refused is tried again: a quota grows without an event of ours."""

Stuck = Callable[[Trouble], Plan]
"""What is done for an object that cannot be rendered, or whose children are refused."""

_KINDS: Final = {kind.kind: kind for kind in OWN}


class Execute(Protocol):
    """What carries plans out (``executor.Executor``)."""

    async def execute(self, owner: Object, plan: Plan) -> Result:
        """Do it. Raises Refused, KubeError, Fenced."""
        ...


class Controller:
    """Reconciles.

    Args:
        cache: where the objects lie.
        observer: what bears on them.
        executor: carries out what was decided.
        context: the surroundings of every rendering.
    """

    def __init__(self, cache: Cache, observer: Observer, executor: Execute, context: BuildContext) -> None:
        self._cache = cache
        self._observer = observer
        self._executor = executor
        self._context = context

    async def reconcile(self, key: Key) -> Result:
        """Bring one object nearer to what its spec says.

        Raises:
            KubeError: the API server could not do what was asked; nothing is lost by trying again.
            Fenced: this process may not lead any more.
        """
        raw = self._cache.get(_KINDS[key.kind], key.namespace, key.name)
        if raw is None or deleting(raw):  # its children go by owner references (rule 12)
            self._observer.forget(key)
            return Result()
        stuck: Stuck = partial(self._stalled, raw)
        try:
            if key.kind == "RolloutJob":
                job = await self._observer.rollout_job(key, raw)
                plan, stuck = plan_rollout_job(job, self._context), partial(plan_stuck_job, job)
            elif key.kind == "ModelServer":
                plan = plan_model_server(await self._observer.model_server(raw), self._context)
            else:
                plan = plan_environment(await self._observer.environment(raw), self._context)
        except InvalidSpec as error:
            plan = stuck(Trouble(error.reason, error.message))
        try:
            return await self._executor.execute(raw, plan)
        except Refused as refused:
            plan = stuck(refusal_trouble(refused.refusals))
            again = min(TRY_AGAIN, plan.requeue_after) if plan.requeue_after is not None else TRY_AGAIN
            return await self._executor.execute(raw, replace(plan, requeue_after=again))

    def _stalled(self, raw: Object, trouble: Trouble) -> Plan:
        status, events = stalled_status(raw, trouble, self._observer.now())
        return Plan(status=status, events=events)


def refusal_trouble(refusals: tuple[Refusal, ...]) -> Trouble:
    """What the API server's refusal of children means for their owner."""
    kind, name, error = refusals[0]
    message = f"{kind} {name}: {error.message}"
    if isinstance(error, AlreadyExists):
        return Trouble(Reason.NAME_IN_USE, message)
    if isinstance(error, Invalid):
        fields = [cause.field for cause in error.causes] or [error.message]
        in_template = any("template" in field.lower() for field in fields)
        return Trouble(Reason.INVALID_POD_TEMPLATE if in_template else Reason.INVALID_SPEC, message)
    if isinstance(error, Forbidden):
        if "exceeded quota" in error.message:
            return Trouble(Reason.QUOTA_EXCEEDED, message)
        rights = "cannot" in error.message and "User " in error.message
        return Trouble(Reason.FORBIDDEN if rights else Reason.ADMISSION_REFUSED, message)
    return Trouble(error.reason, message)
