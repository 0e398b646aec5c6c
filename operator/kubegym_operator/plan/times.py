"""Times of Kubernetes objects: RFC 3339 in UTC with whole seconds, and seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds(text: str | None) -> float | None:
    """Seconds since 1970; None for what is no time."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def rfc3339(moment: float) -> str:
    """As Kubernetes writes it: ``2026-11-28T09:00:00Z``."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spell(duration: float) -> str:
    """A duration for a person: ``45 s``, ``12 min``, ``3 h 5 min``."""
    whole = max(0, int(duration))
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
