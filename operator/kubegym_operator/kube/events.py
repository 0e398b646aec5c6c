"""Events (``events.k8s.io/v1``) about our objects.

They are told on transitions, which the plan finds, and never twice: the same words about the same object within ten
minutes are one event. They are a courtesy: what cannot be told is logged, and nothing fails for it.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Literal

from kubegym.core.clock import Clock
from kubegym_operator.kube.errors import KubeError
from kubegym_operator.kube.protocol import KubeApi, Object, key_of

log = logging.getLogger("kubegym.operator")

COMPONENT = "kubegym-operator"
QUIET_SECONDS = 600.0
_REMEMBERED = 4096
_NOTE_LIMIT = 1024  # bytes, by the API


class EventRecorder:
    """Tells events.

    Args:
        api: the API server.
        clock: for the time stamp.
        instance: which process tells it, such as the pod's name.
    """

    def __init__(self, api: KubeApi, clock: Clock, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._instance = instance[:128]
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def emit(self, about: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> int:
        """Tell it; how many requests were made."""
        metadata = about["metadata"]
        now, words = self._clock.time(), (metadata["uid"], reason, message)
        if now - self._told.get(words, -QUIET_SECONDS) < QUIET_SECONDS:
            return 0
        self._told[words] = now
        self._told.move_to_end(words)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        event: Object = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "reason": reason,
            "action": "Reconcile",
            "note": _shortened(message),
            "reportingController": f"kubegym.dev/{COMPONENT}",
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
        }
        try:
            await self._api.create(event)
        except KubeError as error:
            log.warning("%s: event %s could not be told: %s", key_of(about), reason, error)
        return 1


def _shortened(message: str) -> str:
    data = message.encode()
    return message if len(data) <= _NOTE_LIMIT else data[: _NOTE_LIMIT - 3].decode(errors="ignore") + "…"
