"""A Deployment or LeaderWorkerSet: what it has, whether that is current, and what it serves.

=========================================  ========================  ==================================================
seen                                       serving                   reason
=========================================  ========================  ==================================================
wanted 0                                   no                        that of who wants none (Idle, Suspended, ...)
not there, or no pod ready                 no                        the trouble of its pods, else ``Progressing``
pods ready, some of an older template      no                        ``RollingOut``
all current, served before this spec's     yes                       ``Available``
all current, first time                    by the answer             ``Available``, ``ProbeFailed``, ``Progressing``
=========================================  ========================  ==================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubegym_operator.api.reasons import Reason
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.failures import Trouble, workload_trouble
from kubegym_operator.plan.objects import generation_of, name_of, pod_ready, spec_of, status_of
from kubegym_operator.plan.snapshot import Answer


@dataclass(frozen=True, slots=True)
class Workload:
    """What is known of a workload.

    Attributes:
        component: of the environment or model server.
        name: its name.
        exists: it was observed.
        wanted: replicas that it should have.
        replicas: pods that it has.
        ready: of these, ready ones.
        rolled_out: it has no pod of an older template.
        observed: its controller has seen its newest spec.
        trouble: what keeps it from getting its pods to run.
        addresses: of its ready pods.
    """

    component: str
    name: str
    wanted: int
    exists: bool = False
    replicas: int = 0
    ready: int = 0
    rolled_out: bool = False
    observed: bool = False
    trouble: Trouble | None = None
    addresses: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        """Whether it has exactly the pods that it should, all of them ready and current."""
        return self.exists and self.observed and self.rolled_out and self.ready == self.wanted == self.replicas


@dataclass(frozen=True, slots=True)
class Serving:
    """Whether a part serves, and why (not)."""

    serves: bool
    reason: str
    message: str = ""


def read_workload(
    component: str, name: str, wanted: int, obj: Object | None, pods: Sequence[Object], now: float
) -> Workload:
    """What is known of the workload of that name.

    Args:
        component: which part it is.
        name: its name.
        wanted: replicas it should have.
        obj: the object, if it was observed.
        pods: of that component.
        now: wall-clock seconds.
    """
    if obj is None:
        return Workload(component, name, wanted)
    status = status_of(obj)
    replicas = int(status.get("replicas") or 0)
    updated = int(status.get("updatedReplicas") or 0)
    seen = status.get("observedGeneration")
    ready_pods = sorted((pod for pod in pods if pod_ready(pod)), key=name_of)
    return Workload(
        component,
        name,
        wanted,
        exists=True,
        replicas=replicas,
        ready=int(status.get("readyReplicas") or 0),
        rolled_out=updated >= replicas,
        observed=seen is None or int(seen) >= generation_of(obj),
        trouble=workload_trouble(obj, pods, now) if wanted else None,
        addresses=tuple(address for pod in ready_pods if (address := status_of(pod).get("podIP"))),
    )


def observed_replicas(obj: Object | None) -> int | None:
    """``spec.replicas`` as it is now."""
    value = spec_of(obj).get("replicas") if obj is not None else None
    return value if isinstance(value, int) else None


def awaits_answer(workload: Workload, served_before: bool) -> bool:
    """Whether the workload has to answer a real request before it counts as serving."""
    return bool(
        workload.wanted
        and workload.addresses
        and workload.ready
        and workload.rolled_out
        and workload.observed
        and not served_before
    )


def read_serving(workload: Workload, served_before: bool, answer: Answer | None, rests: str) -> Serving:
    """Whether the workload serves.

    Args:
        workload: what is known of it.
        served_before: it has answered since the owner's spec became what it is.
        answer: to the question asked now.
        rests: the reason why none is wanted, where none is.
    """
    what = f"{workload.component} {workload.name}"
    if not workload.wanted:
        return Serving(False, rests)
    if not workload.ready:
        if workload.trouble is not None:
            return Serving(False, workload.trouble.reason, workload.trouble.message)
        return Serving(False, Reason.PROGRESSING, f"{what}: 0 of {workload.wanted} pods are ready")
    if served_before and (workload.rolled_out or not workload.observed):
        return Serving(True, Reason.AVAILABLE, "")
    if not (workload.rolled_out and workload.observed):
        return Serving(False, Reason.ROLLING_OUT, f"{what}: not all of {workload.replicas} pods are current")
    if answer is None:
        return Serving(False, Reason.PROGRESSING, f"{what}: its pods are ready and have not been asked yet")
    if not answer.ok:
        return Serving(False, Reason.PROBE_FAILED, f"{what}: {answer.message}")
    return Serving(True, Reason.AVAILABLE, "")
