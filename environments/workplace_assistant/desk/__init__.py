"""A desk: 27 tools over five databases and a directory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .analytics import Analytics
from .calendar import Calendar
from .customers import Customers
from .directory import Directory
from .email import Email
from .projects import Projects
from .tables import Base, Table

SEARCHED = {
    "emails": ("subject", "body", "sender/recipient"),
    "events": ("event_name", "participant_email"),
    "directory": ("email_address",),
}
"""Columns that searches by words look at."""

WRITES = frozenset(
    {
        "email_send_email",
        "email_delete_email",
        "email_forward_email",
        "email_reply_email",
        "calendar_create_event",
        "calendar_delete_event",
        "calendar_update_event",
        "analytics_create_plot",
        "project_management_create_task",
        "project_management_delete_task",
        "project_management_update_task",
        "customer_relationship_manager_update_customer",
        "customer_relationship_manager_add_customer",
        "customer_relationship_manager_delete_customer",
    }
)
"""Tools that change something; the others only read."""


class Desk(Directory, Email, Calendar, Analytics, Projects, Customers):
    """All tools, over one session's tables."""

    def open(self, bases: Mapping[str, Base]) -> None:
        """Begin with tables as they were loaded."""
        self.tables = {name: Table(base, SEARCHED.get(name, ())) for name, base in bases.items()}

    def replay(self, name: str, arguments: Any) -> None:
        """Make a call for what it changes; one that the tool does not take changes nothing."""
        if name not in WRITES or not isinstance(arguments, dict):
            return
        given = {key: value for key, value in arguments.items() if value is not None}
        if all(isinstance(value, str) for value in given.values()):
            with suppress(TypeError):  # arguments that the tool does not have
                getattr(self, name)(**given)
