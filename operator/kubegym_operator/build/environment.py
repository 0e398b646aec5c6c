"""GymEnvironment: ModelServers of its inline roles, its resources server, its agent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kubegym.core.spec import GymEnvironment
from kubegym_operator.build.context import BuildContext
from kubegym_operator.build.endpoints import ModelEndpointUrl

NO_DIGESTS: Mapping[str, str] = MappingProxyType({})


def build_model_servers(environment: GymEnvironment, context: BuildContext) -> list[dict[str, Any]]:
    """A ModelServer for each inline role, without ``replicas`` (``/scale`` is everybody's).

    They can be applied before anything is resolved.
    """
    raise NotImplementedError


def build_environment(
    environment: GymEnvironment,
    endpoints: Mapping[str, ModelEndpointUrl],
    context: BuildContext,
    *,
    config_digests: Mapping[str, str] = NO_DIGESTS,
) -> list[dict[str, Any]]:
    """The objects to apply for agent and resources server: none for what is placed in the worker.

    ConfigMap, ServiceAccounts, Services, NetworkPolicies, PodDisruptionBudgets, Deployments (last). Does not contain
    the ModelServers (``build_model_servers``).

    Args:
        environment: the GymEnvironment, with its uid.
        endpoints: its models by role, see ``endpoints.model_endpoints``. All of its roles have to be there.
        context: the surroundings.
        config_digests: content digests of the ConfigMaps that its podTemplates name, as far as they were observed.

    Raises:
        BuildError: a spec that cannot be rendered.
    """
    raise NotImplementedError


def build_session_secret(environment: GymEnvironment, token: str) -> dict[str, Any]:
    """The Secret that resources servers sign sessions with: created once, never read, never written again.

    Args:
        environment: its owner.
        token: fresh and random, from the shell.
    """
    raise NotImplementedError
