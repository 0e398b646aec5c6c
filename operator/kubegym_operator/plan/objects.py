"""Reading plain Kubernetes objects: what they are called, what they say about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kubegym_operator.api import API_VERSION, GymEnvironment, ModelServer, RolloutJob, parse
from kubegym_operator.plan.actions import KindName, Object

GYM_ENVIRONMENT: Final = KindName(API_VERSION, "GymEnvironment")
ROLLOUT_JOB: Final = KindName(API_VERSION, "RolloutJob")
MODEL_SERVER: Final = KindName(API_VERSION, "ModelServer")
DEPLOYMENT: Final = KindName("apps/v1", "Deployment")
LEADER_WORKER_SET: Final = KindName("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
JOB: Final = KindName("batch/v1", "Job")
POD: Final = KindName("v1", "Pod")
CONFIG_MAP: Final = KindName("v1", "ConfigMap")

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"


_METADATA: Final = ("name", "namespace", "labels", "annotations", "uid", "generation")


def typed(raw: Object) -> GymEnvironment | RolloutJob | ModelServer:
    """The typed object, with of the metadata only what decisions use: others' fields are no error of the user's.

    Raises:
        InvalidSpec: the object breaks a rule of the models.
    """
    metadata = raw.get("metadata") or {}
    return parse({**raw, "metadata": {name: metadata[name] for name in _METADATA if metadata.get(name) is not None}})


def name_of(obj: Object) -> str:
    """``metadata.name``."""
    return str(obj.get("metadata", {}).get("name", ""))


def namespace_of(obj: Object) -> str:
    """``metadata.namespace``; empty for an object of the whole cluster."""
    return str(obj.get("metadata", {}).get("namespace") or "")


def uid_of(obj: Object) -> str | None:
    """``metadata.uid``."""
    uid = obj.get("metadata", {}).get("uid")
    return uid if isinstance(uid, str) else None


def generation_of(obj: Object) -> int:
    """``metadata.generation``; 0 where there is none."""
    return int(obj.get("metadata", {}).get("generation") or 0)


def labels_of(obj: Object) -> Mapping[str, str]:
    """``metadata.labels``, empty where there are none."""
    labels: Mapping[str, str] = obj.get("metadata", {}).get("labels") or {}
    return labels


def annotations_of(obj: Object) -> Mapping[str, str]:
    """``metadata.annotations``, empty where there are none."""
    annotations: Mapping[str, str] = obj.get("metadata", {}).get("annotations") or {}
    return annotations


def spec_of(obj: Object) -> Mapping[str, Any]:
    """``spec``, empty where there is none."""
    spec: Mapping[str, Any] = obj.get("spec") or {}
    return spec


def status_of(obj: Object) -> Mapping[str, Any]:
    """``status``, empty where there is none."""
    status: Mapping[str, Any] = obj.get("status") or {}
    return status


def conditions_of(obj: Object) -> list[dict[str, Any]]:
    """``status.conditions``, empty where there are none."""
    return list(status_of(obj).get("conditions") or ())


def condition(obj: Object, type: str) -> Mapping[str, Any]:
    """The condition of that type; empty where there is none."""
    for found in status_of(obj).get("conditions") or ():
        if found.get("type") == type:
            said: Mapping[str, Any] = found
            return said
    return {}


def holds(obj: Object, type: str) -> bool:
    """Whether the condition of that type is True."""
    return condition(obj, type).get("status") == "True"


def deleting(obj: Object) -> bool:
    """Whether the object is being deleted."""
    return bool(obj.get("metadata", {}).get("deletionTimestamp"))


def of_kind(objects: Iterable[Object], kind: KindName) -> list[Object]:
    """The objects of a kind."""
    return [obj for obj in objects if (obj.get("apiVersion"), obj.get("kind")) == kind]


def named(objects: Iterable[Object], kind: KindName, name: str) -> Object | None:
    """The object of that kind and name, if it is among them."""
    return next((obj for obj in of_kind(objects, kind) if name_of(obj) == name), None)


def labelled(objects: Iterable[Object], wanted: Mapping[str, str]) -> list[Object]:
    """The objects that carry all of these labels."""
    return [obj for obj in objects if wanted.items() <= labels_of(obj).items()]


def pod_ready(pod: Object) -> bool:
    """Whether a pod's own probes are content and it is not ending."""
    return holds(pod, "Ready") and not deleting(pod)
