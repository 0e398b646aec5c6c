"""Which environment entry of a run a dataset row belongs to (DESIGN section 5, ``RolloutJob.environments``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kubegym.core.errors import InvalidSpec


def agent_claims(entries: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Agent name -> the entry that claims it.

    Args:
        entries: name and ``agentRefs`` of each entry.

    Raises:
        InvalidSpec: two entries claim one agent.
    """
    claims: dict[str, str] = {}
    for entry, agents in entries:
        for agent in agents:
            other = claims.setdefault(agent, entry)
            if other != entry:
                raise InvalidSpec(f"environments {other!r} and {entry!r} both claim agentRefs {agent!r}; only one may")
    return claims


def route(agent: str | None, home: str, claims: Mapping[str, str]) -> str | None:
    """The entry a row goes to, or None where no entry takes it.

    ============================  ==========================  =====================
    the row's ``agent_ref.name``  its dataset's entry (home)  goes to
    ============================  ==========================  =====================
    claimed by an entry           any                         the entry that claims
    absent, or claimed by none    has no ``agentRefs``        home
    absent, or claimed by none    has ``agentRefs``           nowhere: invalid
    ============================  ==========================  =====================

    Args:
        agent: ``agent_ref.name`` of the row.
        home: the entry whose dataset the row is in.
        claims: see ``agent_claims``.
    """
    if agent is not None:
        claimed = claims.get(agent)
        if claimed is not None:
            return claimed
    return None if home in claims.values() else home
