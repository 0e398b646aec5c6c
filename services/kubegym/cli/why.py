"""What state an object of ours is in, and why it does not move. Pure: from objects as a cluster stores them to words.

The operator lifts the reason of a degraded part into conditions; this follows them from a RolloutJob to its
environments, their models, and the pods, so that the last line names what has to be put right. It also sees what the
operator cannot say: that there is none, or that it has not looked yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Object = dict[str, Any]

JOB, ENVIRONMENT, SERVER = "RolloutJob", "GymEnvironment", "ModelServer"
OWNER_LABELS: Final = {
    JOB: "kubegym.dev/rolloutjob-name",
    ENVIRONMENT: "kubegym.dev/gymenvironment-name",
    SERVER: "kubegym.dev/modelserver-name",
}
"""The labels by which pods name whom they belong to."""

_CALM = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class World:
    """What was found in the cluster.

    Attributes:
        objects: ours, by kind, namespace and name.
        pods: those that belong to them.
    """

    objects: Mapping[tuple[str, str, str], Object] = field(default_factory=dict)
    pods: tuple[Object, ...] = ()

    @classmethod
    def of(cls, objects: Iterable[Object], pods: Iterable[Object]) -> World:
        """The world of plain lists."""
        return cls({_key(obj): obj for obj in objects}, tuple(pods))

    def pods_of(self, obj: Object) -> list[Object]:
        """The pods that an object owns."""
        kind, namespace, name = _key(obj)
        label = OWNER_LABELS[kind]
        return [
            pod
            for pod in self.pods
            if pod["metadata"].get("namespace") == namespace and pod["metadata"].get("labels", {}).get(label) == name
        ]


@dataclass(frozen=True)
class State:
    """A word for a table, and the reason of the condition that it comes from."""

    word: str
    reason: str = ""


@dataclass(frozen=True)
class Cause:
    """Why something does not move.

    Attributes:
        who: kind and name.
        reason: a word of the API.
        message: for people.
        depth: how far below the object that was asked about.
    """

    who: str
    reason: str
    message: str
    depth: int = 0


def condition(obj: Object, kind: str) -> Object:
    """A condition; empty where there is none."""
    found: list[Object] = (obj.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})


def holds(obj: Object, kind: str) -> bool:
    """Whether a condition is true."""
    return condition(obj, kind).get("status") == "True"


def state(obj: Object) -> State:
    """The state of an object of ours."""
    if obj["metadata"].get("deletionTimestamp"):
        return State("Deleting")
    for word in ("Complete", "Failed"):
        if holds(obj, word):
            return State(word, condition(obj, word)["reason"])
    if obj.get("spec", {}).get("suspend"):
        return State("Suspended")
    if unseen(obj):
        return State("Pending", "NotSeen")
    return _job_state(obj) if obj["kind"] == JOB else _server_state(obj)


def _job_state(job: Object) -> State:
    for kind, wanted, word in (
        ("Stalled", "True", "Stalled"),
        ("Suspended", "True", "Queued"),
        ("EnvironmentReady", "False", "Waiting"),
        ("Progressing", "True", "Running"),
    ):
        found = condition(job, kind)
        if found.get("status") == wanted:
            return State(word, found["reason"])
    return State("Pending", condition(job, "Progressing").get("reason", ""))


def _server_state(obj: Object) -> State:
    for kind, word in (("Suspended", "Suspended"), ("Stalled", "Stalled"), ("Serving", "Serving")):
        if holds(obj, kind):
            return State(word, condition(obj, kind)["reason"])
    if holds(obj, "Ready"):
        return State("Idle", condition(obj, "Ready")["reason"])
    return State("Starting", condition(obj, "Serving").get("reason", ""))


def unseen(obj: Object) -> bool:
    """Whether no operator has looked at the object yet."""
    return int((obj.get("status") or {}).get("observedGeneration", -1)) < 0


def causes(obj: Object, world: World) -> list[Cause]:
    """Why an object does not move, the deepest known reason last; empty where it does, or has nothing left to do."""
    if state(obj).word in ("Complete", "Running", "Serving", "Idle"):
        return []
    return list(_causes(obj, world, 0))


def _causes(obj: Object, world: World, depth: int) -> Iterator[Cause]:
    who = f"{obj['kind']} {obj['metadata']['name']}"
    status = obj.get("status") or {}
    if unseen(obj):
        where = obj["metadata"].get("namespace", "default")
        yield Cause(who, "NotSeen", f"no operator has looked at it: does one run that watches {where}?", depth)
        return
    if int(status["observedGeneration"]) < int(obj["metadata"].get("generation", 0)):
        yield Cause(who, "Behind", "the operator has not looked at its latest change yet", depth)
    if obj.get("spec", {}).get("suspend"):
        yield Cause(who, "Suspended", "spec.suspend is true", depth)
    yield from _conditions(obj, who, depth)
    if obj["kind"] != JOB or condition(obj, "EnvironmentReady").get("status") != "True":
        for kind, namespace, name in _needs(obj):
            yield from _below(kind, namespace, name, world, depth + 1)
    for pod in world.pods_of(obj):
        yield from (Cause(f"Pod {pod['metadata']['name']}", reason, said, depth + 1) for reason, said in _pod(pod))


def _conditions(obj: Object, who: str, depth: int) -> Iterator[Cause]:
    """What conditions say, each message once."""
    bad = [("Failed", "True"), ("Stalled", "True"), ("RewardIntegrity", "False"), ("Suspended", "True")]
    bad += [("EnvironmentReady", "False")] if obj["kind"] == JOB else [("Serving", "False")]
    said: set[tuple[str, str]] = set()
    for kind, wanted in bad:
        found = condition(obj, kind)
        words = found.get("reason", ""), found.get("message", "")
        if found.get("status") == wanted and words not in said:
            said.add(words)
            yield Cause(who, *words, depth)


def _needs(obj: Object) -> Iterator[tuple[str, str, str]]:
    """Objects of ours that this one waits for."""
    namespace, name, spec = obj["metadata"].get("namespace", "default"), obj["metadata"]["name"], obj.get("spec", {})
    for entry in spec.get("environments", ()):
        yield ENVIRONMENT, namespace, entry["environmentRef"]["name"]
        for binding in entry.get("models", {}).values():
            yield from _reference(binding, namespace)
    if obj["kind"] == ENVIRONMENT:
        for role, binding in spec.get("models", {}).items():
            if "server" in binding:
                yield SERVER, namespace, f"{name}-{role}"
            yield from _reference(binding, namespace)


def _reference(binding: Object, namespace: str) -> Iterator[tuple[str, str, str]]:
    reference = binding.get("serverRef")
    if reference:
        yield SERVER, reference.get("namespace", namespace), reference["name"]


def _below(kind: str, namespace: str, name: str, world: World, depth: int) -> Iterator[Cause]:
    found = world.objects.get((kind, namespace, name))
    if found is None:
        yield Cause(f"{kind} {name}", "NotFound", f"there is none in {namespace}", depth)
    elif not holds(found, "Serving"):
        yield from _causes(found, world, depth)


def _pod(pod: Object) -> Iterator[tuple[str, str]]:
    """What keeps a pod from running."""
    status = pod.get("status", {})
    for found in status.get("conditions", ()):
        if found["type"] == "PodScheduled" and found["status"] == "False":
            yield found.get("reason", "Unschedulable"), found.get("message", "")
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting") or {}
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if waiting.get("reason") and waiting["reason"] not in _CALM:
            yield waiting["reason"], waiting.get("message", "")
        if ended.get("exitCode"):
            yield ended.get("reason", "Error"), f"{container['name']} ended with {ended['exitCode']}" + _words(ended)


def _words(ended: Object) -> str:
    words = str(ended.get("message", "")).strip()
    return f": {words}" if words else ""


def _key(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", "default"), obj["metadata"]["name"]
