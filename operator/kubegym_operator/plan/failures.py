"""What keeps pods from running, in the words of whoever says it: scheduler, kubelet, quota, the container itself.

======================================  ==========================================  ==================================
seen                                    reason                                      message
======================================  ==========================================  ==================================
PodScheduled=False, Unschedulable       ``Unschedulable``, after a grace of 10 s    the scheduler's words
PodScheduled=False, SchedulingGated     ``QuotaPending``                            the gates
waiting: ErrImagePull, ImagePull...     ``ImagePullBackOff``                        the kubelet's words
waiting: Create/RunContainer...Error    the kubelet's                               the kubelet's words
last end OOMKilled                      ``OOMKilled``                               memory limit, restarts
waiting: CrashLoopBackOff               ``CrashLoopBackOff``                        exit code, the last words
phase Failed, Evicted                   ``Evicted``                                 the kubelet's words
creating for more than 60 s             ``CreateContainerConfigError``              Secrets and volumes it waits for
ReplicaFailure: exceeded quota          ``QuotaExceeded``                           the API server's words
ReplicaFailure: any other               ``AdmissionRefused``                        the API server's words
Job failed: PodFailurePolicy            the reason in the last words                the last words
Job failed: any other                   ``BackoffLimitExceeded``, ...               Kubernetes' words, the last words
======================================  ==========================================  ==================================

Last words are what a container left in ``/dev/termination-log``: ``{"reason", "message"}`` of our own programs, the end
of the log of others (``FallbackToLogsOnError``). The operator reads no logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kubegym_operator.api.reasons import Reason
from kubegym_operator.plan.actions import Object
from kubegym_operator.plan.objects import condition, deleting, name_of, spec_of
from kubegym_operator.plan.times import seconds, spell

UNSCHEDULABLE_GRACE: Final = 10.0
"""Seconds until a pod without a node is trouble: bindings and autoscalers of nodes take a moment."""

CREATING_GRACE: Final = 60.0
"""Seconds until a container that is still being created is trouble: volumes and images take their time."""

EXIT_CANNOT_SUCCEED: Final = 11
"""The exit code of our programs for what no repetition helps."""

_PULL_REASONS: Final = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CREATE_REASONS: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "StartError"}
)
_NO_TEMPLATE: Final[Mapping[str, Any]] = MappingProxyType({})
_LAST_WORDS: Final = 1000
"""Characters of last words that a message carries."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something does not run: one word for programs, a sentence for people.

    ``waits`` is true where it may well end by itself: a pod that waits for quota.
    """

    reason: str
    message: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class LastWords:
    """How a container ended: its exit code and what it said."""

    exit_code: int
    reason: str | None
    message: str
    pod: str
    finished: float


def first_trouble(pods: Iterable[Object], now: float, template: Mapping[str, Any] = _NO_TEMPLATE) -> Trouble | None:
    """The trouble to report for a set of pods: what will not end by itself before what may."""
    found = [trouble for pod in sorted(pods, key=name_of) if (trouble := pod_trouble(pod, now, template)) is not None]
    return min(found, key=lambda trouble: trouble.waits, default=None)


def pod_trouble(pod: Object, now: float, template: Mapping[str, Any] = _NO_TEMPLATE) -> Trouble | None:
    """Why this pod does not run; None when it does, is ending, or has had no time yet.

    Args:
        pod: as the cache keeps it.
        now: wall-clock seconds.
        template: the pod spec it was made from, for limits and volumes: of a pod only the state is kept.
    """
    if deleting(pod):
        return None
    status = pod.get("status") or {}
    if status.get("phase") == "Failed" and status.get("reason") == "Evicted":
        return Trouble(Reason.EVICTED, f"pod {name_of(pod)}: {status.get('message') or 'evicted'}")
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    return _scheduling(pod, now) or _containers(pod, template) or _creating(pod, now, template)


def template_of(workload: Object) -> Mapping[str, Any]:
    """The pod spec that a Deployment, Job or LeaderWorkerSet makes its pods from."""
    spec = spec_of(workload)
    template = spec.get("template") or (spec.get("leaderWorkerTemplate") or {}).get("workerTemplate") or {}
    found: Mapping[str, Any] = template.get("spec") or {}
    return found


def unsettled_until(pods: Iterable[Object], now: float) -> float | None:
    """Seconds until a pod that is still in its grace becomes trouble; None when none is."""
    waits = []
    for pod in pods:
        said = condition(pod, "PodScheduled")
        if said.get("status") == "False" and said.get("reason") == "Unschedulable":
            waits.append(_grace_left(said.get("lastTransitionTime"), UNSCHEDULABLE_GRACE, now))
        elif said.get("status") == "True" and _waiting_reasons(pod) & {"ContainerCreating", "PodInitializing"}:
            waits.append(_grace_left(said.get("lastTransitionTime"), CREATING_GRACE, now))
    left = [wait for wait in waits if wait > 0]
    return min(left) if left else None


def workload_trouble(workload: Object, pods: Sequence[Object], now: float) -> Trouble | None:
    """Why a Deployment (or another workload with such conditions) does not get its pods to run."""
    refusal = condition(workload, "ReplicaFailure")
    if refusal.get("status") == "True":
        return _refusal(workload, str(refusal.get("message", "")))
    if (trouble := first_trouble(pods, now, template_of(workload))) is not None:
        return trouble
    progress = condition(workload, "Progressing")
    if progress.get("status") == "False" and progress.get("reason") == "ProgressDeadlineExceeded":
        words = progress.get("message", "")
        return Trouble(Reason.PROGRESS_DEADLINE_EXCEEDED, f"{workload['kind']} {name_of(workload)}: {words}")
    return None


def job_failure(job: Object, pods: Sequence[Object]) -> Trouble | None:
    """Why a Job failed for good; None while it has not."""
    said = condition(job, "Failed")
    if said.get("status") != "True":
        said = condition(job, "FailureTarget")
        if said.get("status") != "True":
            return None
    words = last_words(pods, prefer=EXIT_CANNOT_SUCCEED)
    reason = str(said.get("reason") or Reason.WORKER_FAILED)
    told = f"Job {name_of(job)}: {said.get('message', '')}".rstrip(": ")
    if reason == "PodFailurePolicy":  # the policy only passes on what the container said
        reason = Reason.WORKER_FAILED
    if words is None:
        return Trouble(reason, told)
    told = f"{told}. Pod {words.pod} ended with exit code {words.exit_code}: {words.message}".rstrip(": ")
    if words.exit_code == EXIT_CANNOT_SUCCEED:
        return Trouble(words.reason or reason, words.message or told)
    return Trouble(reason, told)


def last_words(pods: Iterable[Object], *, prefer: int | None = None) -> LastWords | None:
    """How the pod that ended last with an error ended; one with exit code ``prefer`` wins."""
    ends = [end for pod in pods for end in _ends(pod) if end.exit_code != 0]
    return max(ends, key=lambda end: (end.exit_code == prefer, end.finished), default=None)


def success_words(pods: Iterable[Object]) -> Mapping[str, Any] | None:
    """The JSON object that a container which ended well left behind, the latest of them."""
    ends = [end for pod in pods for end in _ends(pod, parsed=False) if end.exit_code == 0]
    for end in sorted(ends, key=lambda end: end.finished, reverse=True):
        if (found := _json_object(end.message)) is not None:
            return found
    return None


def _scheduling(pod: Object, now: float) -> Trouble | None:
    said = condition(pod, "PodScheduled")
    if said.get("status") != "False":
        return None
    if said.get("reason") == "SchedulingGated":
        gates = ", ".join(gate["name"] for gate in pod.get("spec", {}).get("schedulingGates") or ())
        return Trouble(Reason.QUOTA_PENDING, f"pod {name_of(pod)} waits for {gates or 'its gates'}", waits=True)
    if _grace_left(said.get("lastTransitionTime"), UNSCHEDULABLE_GRACE, now) > 0:
        return None
    return Trouble(Reason.UNSCHEDULABLE, f"pod {name_of(pod)}: {said.get('message') or 'no node takes it'}")


def _containers(pod: Object, template: Mapping[str, Any]) -> Trouble | None:
    for status in _container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        where = f"pod {name_of(pod)}, container {status.get('name')}"
        if reason in _PULL_REASONS:
            return Trouble(Reason.IMAGE_PULL_BACK_OFF, f"{where}: {words or status.get('image', '')}")
        if reason in _CREATE_REASONS:
            return Trouble(reason, f"{where}: {words}")
        if (trouble := _crashes(status, reason, where, template)) is not None:
            return trouble
    return None


def _crashes(status: Mapping[str, Any], waiting: str, where: str, template: Mapping[str, Any]) -> Trouble | None:
    ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated") or {}
    restarts = status.get("restartCount", 0)
    if ended.get("reason") == "OOMKilled" and not status.get("ready"):
        limit = _memory_limit(template, str(status.get("name")))
        bound = f" (limit {limit})" if limit else ""
        return Trouble(Reason.OOM_KILLED, f"{where}: out of memory{bound}, {_times(restarts)} so far")
    if waiting != "CrashLoopBackOff":
        return None
    _, words = _parsed(str(ended.get("message") or ""))
    said = f": {words}" if words else " and said nothing"
    return Trouble(
        Reason.CRASH_LOOP_BACK_OFF,
        f"{where}: ended with exit code {ended.get('exitCode', '?')}, {_times(restarts)} so far{said}",
    )


def _creating(pod: Object, now: float, template: Mapping[str, Any]) -> Trouble | None:
    """Volumes that do not come are told by events only; what the pod waits for stands in its spec."""
    said = condition(pod, "PodScheduled")
    if said.get("status") != "True" or not _waiting_reasons(pod) & {"ContainerCreating", "PodInitializing"}:
        return None
    if any((s.get("state") or {}).get("running") for s in (pod.get("status") or {}).get("initContainerStatuses") or ()):
        return None
    since = seconds(said.get("lastTransitionTime"))
    if since is None or now - since < CREATING_GRACE:
        return None
    wanted = ", ".join(_mounted(template)) or "its volumes"
    return Trouble(
        Reason.CREATE_CONTAINER_CONFIG_ERROR,
        f"pod {name_of(pod)} is being created for {spell(now - since)}; check that these exist: {wanted}",
    )


def _mounted(template: Mapping[str, Any]) -> list[str]:
    names = []
    for volume in template.get("volumes") or ():
        if secret := volume.get("secret"):
            names.append(f"Secret {secret.get('secretName')}")
        elif config_map := volume.get("configMap"):
            names.append(f"ConfigMap {config_map.get('name')}")
        elif claim := volume.get("persistentVolumeClaim"):
            names.append(f"PersistentVolumeClaim {claim.get('claimName')}")
    return names


def _refusal(workload: Object, words: str) -> Trouble:
    reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in words else Reason.ADMISSION_REFUSED
    return Trouble(reason, f"{workload['kind']} {name_of(workload)}: {words}")


def _ends(pod: Object, *, parsed: bool = True) -> list[LastWords]:
    found = []
    for status in _container_statuses(pod):
        for state in (status.get("state"), status.get("lastState")):
            ended = (state or {}).get("terminated")
            if not ended:
                continue
            text = str(ended.get("message") or "")
            reason, message = _parsed(text) if parsed else (None, text)
            if ended.get("reason") == "OOMKilled":
                reason, message = Reason.OOM_KILLED, message or "out of memory"
            finished = seconds(ended.get("finishedAt")) or 0.0
            found.append(LastWords(int(ended.get("exitCode", 0)), reason, message, name_of(pod), finished))
    return found


def _parsed(text: str) -> tuple[str | None, str]:
    """Reason and message of last words; others' are their last characters."""
    found = _json_object(text)
    if found is not None and isinstance(found.get("message"), str):
        reason = found.get("reason")
        return (reason if isinstance(reason, str) else None), found["message"][:_LAST_WORDS]
    return None, text.strip()[-_LAST_WORDS:]


def _json_object(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _container_statuses(pod: Object) -> list[Mapping[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _waiting_reasons(pod: Object) -> set[str]:
    states = (status.get("state") or {} for status in _container_statuses(pod))
    return {str(state["waiting"].get("reason")) for state in states if state.get("waiting")}


def _memory_limit(template: Mapping[str, Any], container: str) -> str | None:
    for found in (*(template.get("initContainers") or ()), *(template.get("containers") or ())):
        if found.get("name") == container:
            limit = ((found.get("resources") or {}).get("limits") or {}).get("memory")
            return str(limit) if limit is not None else None
    return None


def _grace_left(since: str | None, grace: float, now: float) -> float:
    start = seconds(since)
    return 0.0 if start is None else start + grace - now


def _times(count: int) -> str:
    return "1 restart" if count == 1 else f"{count} restarts"
