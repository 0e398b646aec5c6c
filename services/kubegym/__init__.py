"""KubeGym: Kubernetes-native reinforcement-learning environments and rollout collection for language models.

The names below are the public API; they load what they need on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubegym.core.errors import ToolError, VerifierError
    from kubegym.core.messages import Done, Image, Message, Turn
    from kubegym.core.trajectory import Rollout, Verdict
    from kubegym.data.batches import batches
    from kubegym.local import Collector, load, run
    from kubegym.resources import Environment, Model, Row, offload, tool
    from kubegym.resources.files import read_file

__version__ = "0.1.0"

_HOMES = {
    "Collector": "kubegym.local",
    "Done": "kubegym.core.messages",
    "Environment": "kubegym.resources",
    "Image": "kubegym.core.messages",
    "Message": "kubegym.core.messages",
    "Model": "kubegym.resources",
    "Rollout": "kubegym.core.trajectory",
    "Row": "kubegym.resources",
    "ToolError": "kubegym.core.errors",
    "Turn": "kubegym.core.messages",
    "Verdict": "kubegym.core.trajectory",
    "VerifierError": "kubegym.core.errors",
    "batches": "kubegym.data.batches",
    "load": "kubegym.local",
    "offload": "kubegym.resources",
    "read_file": "kubegym.resources.files",
    "run": "kubegym.local",
    "tool": "kubegym.resources",
}

__all__ = [
    "Collector",
    "Done",
    "Environment",
    "Image",
    "Message",
    "Model",
    "Rollout",
    "Row",
    "ToolError",
    "Turn",
    "Verdict",
    "VerifierError",
    "__version__",
    "batches",
    "load",
    "offload",
    "read_file",
    "run",
    "tool",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kubegym' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
