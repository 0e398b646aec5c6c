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


class BuildError(InvalidSpec):
    """A well-formed spec that cannot be rendered.

    Attributes:
        field: the path of the field that says it, such as ``spec.podTemplate.spec.hostNetwork``.
    """

    reason = "InvalidSpec"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class InvalidPodTemplate(BuildError):
    """A podTemplate that is no pod template, or that sets what the operator owns."""

    reason = "InvalidPodTemplate"


class UnsupportedSource(BuildError):
    """Weights that this engine or cache cannot take."""

    reason = "UnsupportedSource"


class WorkerImageConflict(BuildError):
    """Environments placed in one worker's process that ask for different images."""

    reason = "WorkerImageConflict"
