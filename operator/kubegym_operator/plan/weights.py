"""Exchanging the weights of a server's replicas, a few at a time, so that the others serve (pure).

What each replica says decides (``/readyz`` of its model server):

====================================  ====================================================================
a replica                             what is done
====================================  ====================================================================
serves the version that is wanted     nothing; the first of them shows that the weights are good
is at it                              it is waited for
serves another one                    it is ordered: the first alone, then a quarter of all at a time
failed, others prove the version      its pod is deleted: the fault is its own
failed, and so did another            nobody else is tried; ``Stalled`` with its reason, such as ``WeightsCorrupt``
asks to be started anew               its pod is deleted
does not answer                       it starts, and begins with what is wanted, or is somebody else's trouble
====================================  ====================================================================

A pod is deleted for its weights once it is five minutes old, so that one that fails at its start does not cycle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubegym_operator.api import ModelServer
from kubegym_operator.api.reasons import Reason, Type
from kubegym_operator.build import names
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.sources import exchanged
from kubegym_operator.build.weights import ANNOUNCED, CONTROL_PORT, control_token
from kubegym_operator.plan.actions import Delete, Event, Object, Order
from kubegym_operator.plan.children import delete_of
from kubegym_operator.plan.failures import Trouble
from kubegym_operator.plan.objects import CONFIG_MAP, condition, deleting, name_of, named, pod_ready, status_of
from kubegym_operator.plan.snapshot import Told
from kubegym_operator.plan.times import seconds

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks while weights are exchanged."""
TRY_AGAIN: Final = 30.0
"""Seconds until weights that could not be fetched are ordered again."""
RESTART_AFTER: Final = 300.0
"""Seconds that a pod lives at least before its weights are a reason to replace it."""

_OF_THE_WEIGHTS: Final = frozenset({"WeightsNotFound", "CanaryMissing", "WeightsUnsupported", "WeightsStale"})
"""Reasons that no other replica would find otherwise."""
_REASONS: Final = frozenset(value for name, value in vars(Reason).items() if name.isupper())


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica and what it says of its weights; ``told`` None: it does not answer."""

    pod: Object
    told: Told | None

    @property
    def address(self) -> str:
        """Of the pod."""
        return str(status_of(self.pod).get("podIP") or "")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is done about the weights of a server.

    Attributes:
        orders: to replicas.
        deletes: of pods.
        version: the lowest that a ready replica serves; None: not known.
        behind: replicas that do not serve what is wanted.
        trouble: what keeps the exchange from going on.
        requeue_after: seconds until it is looked at again; None: nothing is to come.
    """

    orders: tuple[Order, ...] = ()
    deletes: tuple[Delete, ...] = ()
    version: int | None = None
    behind: int = 0
    trouble: Trouble | None = None
    requeue_after: float | None = None


NO_EXCHANGE: Final = Exchange()


def plan_exchange(
    server: ModelServer, pods: Sequence[Object], told: Mapping[str, Told], context: BuildContext, now: float
) -> Exchange:
    """What to do about the weights of a server whose weights are exchanged.

    Args:
        server: it.
        pods: its replicas.
        told: what they say, by address.
        context: with the key of control tokens.
        now: wall-clock seconds.
    """
    weights = server.spec.weights
    assert weights is not None
    target = weights.version
    replicas = [Replica(pod, told.get(str(status_of(pod).get("podIP") or ""))) for pod in pods_of(pods)]
    heard = [(one, one.told) for one in replicas if one.told is not None]
    served = [said.version for one, said in heard if pod_ready(one.pod)]
    known = [version for version in served if version is not None]
    lowest = min(known) if known and len(known) == len(served) else None
    behind = [(one, said) for one, said in heard if said.version != target or said.restart]
    if not behind:
        silent = any(one.told is None and pod_ready(one.pod) for one in replicas)  # others tell by becoming ready
        return Exchange(version=lowest, requeue_after=LOOK_AGAIN if silent else None)
    failed = [(one, said) for one, said in behind if said.failed == target]
    proven = any(said.version == target and not said.restart for _, said in heard)
    if weights.on_update == "Continue" and (weights.kind == "Adapter" or server.spec.engine == "embedded"):
        message = "onUpdate Continue is for full weights of vLLM: Finish, Abort or Recreate"
        return Exchange(version=lowest, behind=len(behind), trouble=Trouble(Reason.WEIGHTS_UNSUPPORTED, message))
    deletes = _restarts(behind, target, proven=proven, now=now)
    trouble = None if proven else _hopeless(failed, target, len(replicas))
    orders: tuple[Order, ...] = ()
    if trouble is None and not deletes:
        orders = _orders(server, replicas, behind, context, proven=proven)
    retried = any(said.retryable for _, said in failed)
    again = None if trouble is not None else TRY_AGAIN if retried else LOOK_AGAIN
    if any(said.restart for _, said in behind):
        again = TRY_AGAIN  # a pod becomes old enough
    return Exchange(orders, deletes, lowest, len(behind), trouble, again)


def pods_of(pods: Sequence[Object]) -> list[Object]:
    """Those that are to stay, in the order of their names."""
    return sorted((pod for pod in pods if not deleting(pod)), key=name_of)


def good_before(server: ModelServer, children: Sequence[Object], served: int | None) -> Mapping[str, Any] | None:
    """The weights that were served before those that are announced, as the ConfigMap of pods remembers them.

    Args:
        server: the ModelServer.
        children: its objects.
        served: the version that all of its replicas were last seen to serve.
    """
    if server.spec.weights is None or not exchanged(server):
        return None
    config = named(children, CONFIG_MAP, names.weights_config(server.name))
    try:
        stored = json.loads(config["data"][ANNOUNCED]) if config is not None else {}
        wanted, good = stored.get("wanted"), stored.get("good")
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if wanted is not None and wanted.get("version") == served and served != server.spec.weights.version:
        return dict(wanted)
    return None if good is None else dict(good)


def news(raw: Object, exchange: Exchange, target: int) -> tuple[Event, ...]:
    """The event that all replicas serve what was announced, of a server as it is stored."""
    updating = condition(raw, Type.READY).get("reason") == Reason.UPDATING_WEIGHTS
    known = status_of(raw).get("policyVersion") == target and not updating
    if exchange.version != target or known or exchange.behind:
        return ()
    return (Event("Normal", Reason.WEIGHTS_UPDATED, f"all replicas serve version {target}, proven"),)


def _orders(
    server: ModelServer,
    replicas: Sequence[Replica],
    behind: Sequence[tuple[Replica, Told]],
    context: BuildContext,
    *,
    proven: bool,
) -> tuple[Order, ...]:
    """Whom to tell now. Those that serve nobody anyway come first; one that serves goes only where another stays."""
    weights = server.spec.weights
    assert weights is not None
    busy = sum(said.phase is not None for _, said in behind)
    room = (max(1, len(replicas) // 4) if proven else 1) - busy
    ready = sum(pod_ready(one.pod) for one in replicas)
    body = weights.model_dump(mode="json", by_alias=True)
    token = control_token(server, context)
    orders = []
    free = [
        (one, said) for one, said in behind if said.phase is None and (said.failed != weights.version or said.retryable)
    ]
    for one, _ in sorted(free, key=lambda each: pod_ready(each[0].pod)):
        serves = pod_ready(one.pod)
        if room <= 0 or (serves and ready <= 1 < len(replicas)):
            break
        orders.append(Order(one.address, CONTROL_PORT, "/weights", body, token))
        room -= 1
        ready -= serves
    return tuple(orders)


def _restarts(behind: Sequence[tuple[Replica, Told]], target: int, *, proven: bool, now: float) -> tuple[Delete, ...]:
    """One pod at a time: one that asks for it, or one that failed where others prove the weights."""
    for one, said in behind:
        asks = said.restart and said.failed in (target, None)
        hopeless = proven and said.failed == target and not said.retryable
        created = seconds(one.pod["metadata"].get("creationTimestamp"))
        if (asks or hopeless) and (created is None or now - created >= RESTART_AFTER):
            return (delete_of(one.pod),)
    return ()


def _hopeless(failed: Sequence[tuple[Replica, Told]], target: int, replicas: int) -> Trouble | None:
    """Why nobody else is tried: the weights themselves, or a second replica that they did not prove on."""
    final = [(one, said) for one, said in failed if not said.retryable]
    if not final:
        return None
    one, said = final[0]
    if len(final) < min(2, replicas) and said.reason not in _OF_THE_WEIGHTS:
        return None
    reason = said.reason if said.reason in _REASONS else Reason.WEIGHTS_CORRUPT
    return Trouble(reason, f"version {target} is not served: pod {name_of(one.pod)}: {said.message}")
