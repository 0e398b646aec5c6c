"""Errors of the builders: specs that are well formed but cannot be rendered.

Each carries ``reason`` (the word of the condition) and is never retryable: only another spec helps::

    kubegym.core.errors.InvalidSpec
    └── BuildError
        ├── InvalidPodTemplate     a podTemplate that is no pod template, or that fights over what the operator owns
        ├── UnsupportedSource      weights that this engine or cache cannot take
        └── WorkerImageConflict    environments placed in the worker that ask for different images
"""

from __future__ import annotations

from kubegym.core.errors import InvalidSpec
from kubegym_operator.api.reasons import Reason


class BuildError(InvalidSpec):
    """A well-formed spec that cannot be rendered.

    Attributes:
        field: the path of the field that says it, such as ``spec.podTemplate.spec.hostNetwork``.
    """

    reason = Reason.INVALID_SPEC

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class InvalidPodTemplate(BuildError):
    """A podTemplate that is no pod template, or that sets what the operator owns."""

    reason = Reason.INVALID_POD_TEMPLATE


class UnsupportedSource(BuildError):
    """Weights that this engine or cache cannot take."""

    reason = Reason.UNSUPPORTED_SOURCE


class WorkerImageConflict(BuildError):
    """Environments placed in one worker's process that ask for different images."""

    reason = Reason.WORKER_IMAGE_CONFLICT
