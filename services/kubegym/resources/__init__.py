"""The environment SDK: base class, tools, sessions (DESIGN section 7)."""

from kubegym.resources.environment import Environment
from kubegym.resources.limits import SessionLimits
from kubegym.resources.loader import LoadedEnvironment, available_environments, load_environment
from kubegym.resources.models import Model, Row
from kubegym.resources.offload import offload
from kubegym.resources.runtime import EnvironmentRuntime
from kubegym.resources.session import LocalSession
from kubegym.resources.tools import tool
from kubegym.resources.watchdog import Watchdog

__all__ = [
    "Environment",
    "EnvironmentRuntime",
    "LoadedEnvironment",
    "LocalSession",
    "Model",
    "Row",
    "SessionLimits",
    "Watchdog",
    "available_environments",
    "load_environment",
    "offload",
    "tool",
]
