"""Label selectors: written for a request, and read for the twin and the cache."""

from __future__ import annotations

from collections.abc import Mapping

from kubegym_operator.kube.protocol import Labels


def selector(labels: Labels) -> str:
    """The selector in the syntax of a request."""
    return labels if isinstance(labels, str) else ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def matches(labels: Labels, present: Mapping[str, str]) -> bool:
    """Whether an object with these labels is meant. Of the syntax: ``a=b``, ``a==b``, ``a!=b``, ``a``, ``!a``."""
    if not isinstance(labels, str):
        return all(present.get(name) == value for name, value in labels.items())
    return all(_meets(part.strip(), present) for part in labels.split(",") if part.strip())


def _meets(requirement: str, present: Mapping[str, str]) -> bool:
    name, differs, value = requirement.partition("!=")
    if differs:
        return present.get(name.strip()) != value.strip()
    name, equals, value = requirement.partition("=")
    if equals:
        return present.get(name.strip()) == value.lstrip("=").strip()
    return requirement[1:] not in present if requirement.startswith("!") else requirement in present
