"""Names of children: ``<owner>-<component>``, always the same, never too long.

A name that would be longer than its kind allows, or that would read as another component's, is cut and closed by eight
hex digits of what it stands for. Owners' names are bounded by CEL (at most 40 characters), so that this is the
exception: long roles, and jobs that were created again many times.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

MAX_LABEL: Final = 63
"""A DNS label: Services, pods' host names, values of labels."""

MAX_OWNER: Final = 40
"""Longest name of our own kinds (a CEL rule of each CRD)."""

COMPONENTS: Final = frozenset(
    {"agent", "resources", "sandbox", "environment", "session", "pods", "run", "pace", "workers", "worker", "finalise"}
    | {"fetch", "engine", "group", "model", "weights"}
)
"""Words that end the names of children; a role that ends so is closed by a hash."""

_HASH_DIGITS = 8


def joined(*parts: str, limit: int = MAX_LABEL) -> str:
    """Parts joined by ``-``; cut and closed by a hash of the whole where that is longer than ``limit``."""
    name = "-".join(parts)
    return name if len(name) <= limit else _closed(name, parts, limit)


def _closed(readable: str, identity: tuple[str, ...], limit: int) -> str:
    """``readable`` cut to ``limit`` with a hash of ``identity`` at its end."""
    tag = blake2b("\0".join(identity).encode(), digest_size=_HASH_DIGITS // 2).hexdigest()
    return f"{readable[: limit - _HASH_DIGITS - 1].rstrip('-')}-{tag}"


def model_server(environment: str, role: str) -> str:
    """The ModelServer of an environment's inline role: ``<environment>-<role>``, at most 40 characters.

    Roles may hold ``_``, which no object's name can, and may end in a word that names another child of the environment
    or of a server: these are closed by a hash, so that no two children meet. A job's entry with models of its own is
    like an environment, see ``entry``.
    """
    readable = re.sub(r"[^a-z0-9-]", "-", role)
    name = f"{environment}-{readable}"
    if readable != role or role.rpartition("-")[2] in COMPONENTS or len(name) > MAX_OWNER:
        return _closed(name, (environment, role), MAX_OWNER)
    return name


def entry(rollout_job: str, name: str) -> str:
    """After whom the ModelServers of an entry's inline roles are named."""
    return joined(rollout_job, name)


def workload(server: str) -> str:
    """A ModelServer's Deployment."""
    return server


def group(server: str) -> str:
    """A ModelServer's LeaderWorkerSet; not the server's own name, which LWS would give to a Service of its own."""
    return joined(server, "group")


def model_service(server: str) -> str:
    """The Service in front of a ModelServer's replicas."""
    return server


def model_pods(server: str) -> str:
    """The headless Service that names a ModelServer's replicas."""
    return joined(server, "pods")


def fetch(server: str, source: str) -> str:
    """The Job that fetches weights; ``source`` is a short digest of what it fetches, as a Job cannot change."""
    return joined(server, "fetch", source[:_HASH_DIGITS])


def fetch_policy(server: str) -> str:
    """The NetworkPolicy of what fetches weights."""
    return joined(server, "fetch")


def weights_config(server: str) -> str:
    """The ConfigMap with the weights that are announced."""
    return joined(server, "weights")


def agent(environment: str) -> str:
    """The agent's Deployment, Service, ServiceAccount, NetworkPolicy and PodDisruptionBudget."""
    return joined(environment, "agent")


def resources(environment: str) -> str:
    """The resources server's Deployment, Service, ServiceAccount, NetworkPolicy and PodDisruptionBudget."""
    return joined(environment, "resources")


def pods(component: str) -> str:
    """The headless Service beside a component's Service: ``<environment>-resources-pods``."""
    return joined(component, "pods")


def sandbox(environment: str) -> str:
    """The sandbox's objects."""
    return joined(environment, "sandbox")


def environment_config(environment: str) -> str:
    """The ConfigMap with the resolved manifest."""
    return joined(environment, "environment")


def session_secret(environment: str) -> str:
    """The Secret that resources servers sign session tokens with."""
    return joined(environment, "session")


def job(rollout_job: str, number: int = 1) -> str:
    """The workers' Job: ``<job>``, created again as ``<job>-2``, ``<job>-3``, ..."""
    return rollout_job if number == 1 else joined(rollout_job, str(number))


def workers(rollout_job: str) -> str:
    """The workers' headless Service, ServiceAccount and NetworkPolicy."""
    return joined(rollout_job, "workers")


def finaliser(rollout_job: str) -> str:
    """The Job that writes the manifest."""
    return joined(rollout_job, "finalise")


def run_config(rollout_job: str) -> str:
    """The immutable ConfigMap with the frozen run."""
    return joined(rollout_job, "run")


def pace_config(rollout_job: str) -> str:
    """The ConfigMap with what may change while the run goes on."""
    return joined(rollout_job, "pace")


def volume(*parts: str) -> str:
    """A pod's volume; roles may hold ``_``, which a volume's name cannot."""
    name = "-".join(parts)
    readable = name.replace("_", "-")
    return _closed(readable, parts, MAX_LABEL) if readable != name or len(name) > MAX_LABEL else name


def url(service: str, namespace: str, port: int) -> str:
    """The address of a Service inside the cluster."""
    return f"http://{service}.{namespace}.svc:{port}"
