"""A status as it is written: whole, only when it says something new, with events for what changed.

``Reconciling`` and ``Stalled`` follow kstatus, which Helm, Argo CD and Flux read:

=====================================  ===========  ===========  =======
state                                  Ready        Reconciling  Stalled
=====================================  ===========  ===========  =======
serves, all of it                      True         False        False
rests: idle, suspended, no replicas    True         False        False
moves                                  False        True         False
waits for something that may come      False        True         False
does not move without help             False        False        True
=====================================  ===========  ===========  =======
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from kubegym_operator.api.conditions import Condition, merge
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.plan.actions import Event, Object
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.objects import conditions_of, generation_of, holds, status_of
from kubegym_operator.plan.times import rfc3339

_TOLD: Final[Mapping[str, frozenset[str]]] = {
    Type.SERVING: frozenset({"True", "False"}),
    Type.SUSPENDED: frozenset({"True", "False"}),
    Type.STALLED: frozenset({"True"}),
    Type.COMPLETE: frozenset({"True"}),
    Type.FAILED: frozenset({"True"}),
    Type.REWARD_INTEGRITY: frozenset({"False"}),
    Type.PLAN_COMMITTED: frozenset({"True"}),
    Type.ENVIRONMENT_READY: frozenset({"True", "False"}),
}
"""Transitions that are told as events, by the status that a condition turns to."""

_OURS: Final = frozenset(value for name, value in vars(Type).items() if name.isupper())
_BAD_NEWS: Final = {(Type.STALLED, "True"), (Type.FAILED, "True"), (Type.REWARD_INTEGRITY, "False")}


def kstatus(
    *, done: bool, reason: str, message: str, trouble: Trouble | None
) -> tuple[Condition, Condition, Condition]:
    """Ready, Reconciling and Stalled.

    Args:
        done: it serves entirely, or rests as asked.
        reason: why it is done, or what it is doing.
        message: the same for a person.
        trouble: what keeps it from moving.
    """
    if trouble is not None and not trouble.waits:
        return (
            Condition(Type.READY, "False", trouble.reason, trouble.message),
            Condition(Type.RECONCILING, "False", Reason.NOT_STALLED if done else trouble.reason, ""),
            Condition(Type.STALLED, "True", trouble.reason, trouble.message),
        )
    if trouble is not None and not done:
        reason, message = trouble.reason, trouble.message
    return (
        Condition(Type.READY, "True" if done else "False", reason, message),
        Condition(Type.RECONCILING, "False" if done else "True", Reason.RECONCILED if done else reason, ""),
        Condition(Type.STALLED, "False", Reason.NOT_STALLED),
    )


def next_status(
    raw: Object,
    fields: Mapping[str, Any],
    conditions: Sequence[Condition],
    now: float,
    *,
    counts: Collection[str] = (),
) -> tuple[Object | None, tuple[Event, ...]]:
    """The whole status to write, None when the stored one says the same, and the events of what changed.

    Args:
        raw: the object as stored.
        fields: everything but conditions and ``observedGeneration``; None means that a field is not there.
        conditions: what holds now.
        now: wall-clock seconds.
        counts: fields that count pods. While it does not serve they alone are no news: the conditions' words say how
            many are ready, and what is about to serve writes less.
    """
    stored = status_of(raw)
    before = conditions_of(raw)
    generation = generation_of(raw)
    merged = merge(before, conditions, generation=generation, now=rfc3339(now))
    status: Object = {"observedGeneration": generation}
    status |= {name: value for name, value in fields.items() if value is not None}
    found = status | {"conditions": _by_type(merged)}
    known = dict(stored) | {"conditions": _by_type(before, merged)}
    if not holds(raw, Type.SERVING):
        found, known = ({k: v for k, v in each.items() if k not in counts} for each in (found, known))
    if found == known:
        return None, ()
    return status | {"conditions": merged}, transitions(before, merged)


def _by_type(
    conditions: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Mapping[str, Any]]:
    """Conditions by type; of stored ones only ``ours``, as others may add theirs to the list."""
    types = None if ours is None else {condition["type"] for condition in ours}
    return {each["type"]: each for each in conditions if types is None or each["type"] in types}


def transitions(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[Event, ...]:
    """Events for conditions that turned, and for a standstill that has another reason now."""
    old = {condition["type"]: condition for condition in before}
    events = []
    for condition in after:
        type, status = condition["type"], condition["status"]
        previous = old.get(type)
        if status not in _TOLD.get(type, ()):
            continue
        if previous is None and status == "False" and (type, status) not in _BAD_NEWS:
            continue  # that it does not serve yet is no news of something new
        turned = previous is None or previous["status"] != status
        if turned or (type == Type.STALLED and previous is not None and previous["reason"] != condition["reason"]):
            bad = (type, status) in _BAD_NEWS
            said = condition.get("message") or f"{type} is {status}"
            events.append(Event("Warning" if bad else "Normal", condition["reason"], f"{said}"))
    return tuple(events)


def stalled_status(raw: Object, trouble: Trouble, now: float) -> tuple[Object | None, tuple[Event, ...]]:
    """The stored status with a standstill in it: for what is found out before or after all planning."""
    ready = kstatus(done=False, reason=trouble.reason, message=trouble.message, trouble=trouble)
    mine: tuple[Condition, ...] = ready
    if raw.get("kind") == "RolloutJob":  # it has no Ready; what it is at shows in Progressing
        mine = (Condition(Type.PROGRESSING, "False", trouble.reason, trouble.message), *ready[1:])
    kept = [_stored(found) for found in conditions_of(raw) if found["type"] in _OURS - {c.type for c in mine}]
    fields = {k: v for k, v in status_of(raw).items() if k not in ("conditions", "observedGeneration")}
    return next_status(raw, fields, [*kept, *mine], now)


def _stored(found: Mapping[str, Any]) -> Condition:
    return Condition(found["type"], found["status"], found["reason"], found.get("message", ""))
