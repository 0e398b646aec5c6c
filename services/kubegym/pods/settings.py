"""What a pod is told by its environment and finds mounted."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kubegym.rollout import Holder, job_holder
from kubegym.rollout.holder import is_gone


def _termination_log() -> Path:
    """Where Kubernetes reads last words; outside of a pod there is no such file, and nobody to read it."""
    path = Path("/dev/termination-log")
    return path if path.exists() else Path(os.devnull)


class PodSettings(BaseSettings):
    """Read once, at the start.

    Attributes:
        pod_name: of this pod.
        index: the worker's place among the workers; None outside of an Indexed Job.
        workers: how many there are.
        termination_log: where the last words go.
        mount_root: above ``etc/kubegym`` and ``var/run/secrets/kubegym``.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    pod_name: str = Field(default_factory=socket.gethostname, validation_alias="POD_NAME")
    index: int | None = Field(default=None, ge=0, validation_alias="JOB_COMPLETION_INDEX")
    workers: int = Field(default=1, ge=1, validation_alias="KUBEGYM_WORKERS")
    termination_log: Path = Field(default_factory=_termination_log, validation_alias="KUBEGYM_TERMINATION_LOG")
    mount_root: Path = Field(default=Path("/"), validation_alias="KUBEGYM_MOUNT_ROOT")

    @property
    def start(self) -> float:
        """Where in the order of shards this worker begins, in [0, 1)."""
        return (self.index or 0) % self.workers / self.workers

    def secret(self, name: str) -> Path:
        """The folder of a mounted Secret."""
        return self.mount_root / "var/run/secrets/kubegym" / name

    def dataset(self, entry: str) -> Path:
        """The folder of a mounted ConfigMap with rows."""
        return self.mount_root / "etc/kubegym/dataset" / entry

    def authority(self, name: str) -> Path:
        """The folder of a mounted CA bundle."""
        return self.mount_root / "etc/kubegym/ca" / name


class WorkerIdentity:
    """A worker as the holder of shards: the RolloutJob's uid, and who it is among the job's workers.

    The holder is the job, so that its workers respect each other, and anyone else's leases keep them away. An Indexed
    Job replaces a pod only when that has ended, and a process of a pod is started again only when it has ended: so
    whatever another life of the same index holds is nobody's, and need not be waited for.
    """

    def __init__(self, uid: str, settings: PodSettings) -> None:
        self._place = None if settings.index is None else f"{settings.index}/"
        life = f"{settings.pod_name}/{secrets.token_hex(4)}"
        self.holder: Holder = job_holder(uid, f"{self._place or ''}{life}")

    def gone(self, other: Holder) -> bool:
        """Whether another holder is known to work no longer."""
        if other.id != self.holder.id:
            return is_gone(other)
        mine = self._place is not None and other.worker.startswith(self._place)
        return mine and other.worker != self.holder.worker
