"""Calendar events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from kubegym import tool

from .tables import PAGE, Table, is_email, paged, said

FIELDS = ("event_name", "participant_email", "event_start", "duration")


class Calendar:
    """One person's calendar."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def calendar_get_event_information_by_id(
        self, event_id: str | None = None, field: str | None = None
    ) -> dict[str, Any]:
        """Get one field of an event.

        Args:
            event_id: The event's id of 8 digits.
            field: One of: event_id, event_name, participant_email, event_start, duration.
        """
        if not event_id or not field:
            return said("Event ID not provided." if not event_id else "Field not provided.")
        row = self.tables["events"].get(event_id)
        if row is None:
            return said("Event not found.")
        return said({field: row[field]} if field in row else "Field not found.")

    @tool(parallel=True)
    def calendar_search_events(
        self,
        query: str = "",
        time_min: str | None = None,
        time_max: str | None = None,
        page: int = 1,
        page_size: int = PAGE,
    ) -> dict[str, Any]:
        """Find events whose name or participant has the query; the latest first.

        Args:
            query: What to look for.
            time_min: Events that end at this time or later, YYYY-MM-DD HH:MM:SS.
            time_max: Events that start at this time or earlier, YYYY-MM-DD HH:MM:SS.
            page: Which page of results, from 1.
            page_size: Results on a page.
        """
        found = self.tables["events"].search([query.lower()])
        found = [row for row in found if not time_min or _end(row) >= time_min]
        found = [row for row in found if not time_max or (row["event_start"] or "") <= time_max]
        found.sort(key=lambda row: row["event_start"] or "", reverse=True)
        return said(paged(found, "events", page, page_size) if found else "No events found.")

    @tool
    def calendar_create_event(
        self,
        event_name: str | None = None,
        participant_email: str | None = None,
        event_start: str | None = None,
        duration: str | None = None,
    ) -> dict[str, Any]:
        """Create an event; its id is the answer.

        Args:
            event_name: The event's name.
            participant_email: The participant's address.
            event_start: When it starts, YYYY-MM-DD HH:MM:SS.
            duration: How long it takes, in minutes.
        """
        given = {
            "Event name": event_name,
            "Participant email": participant_email,
            "Event start": event_start,
            "Duration": duration,
        }
        missing = next((name for name, value in given.items() if not value), None)
        if missing is not None:
            return said(f"{missing} not provided.")
        participant = str(participant_email).lower()
        if not is_email(participant):
            return said("Invalid participant email address.")
        fields = zip(FIELDS, (event_name, participant, event_start, duration), strict=True)
        return said(self.tables["events"].add(**dict(fields)))

    @tool
    def calendar_delete_event(self, event_id: str | None = None) -> dict[str, Any]:
        """Delete an event.

        Args:
            event_id: The event's id of 8 digits.
        """
        if not event_id:
            return said("Event ID not provided.")
        return said("Event deleted successfully." if self.tables["events"].delete(event_id) else "Event not found.")

    @tool
    def calendar_update_event(
        self, event_id: str | None = None, field: str | None = None, new_value: str | None = None
    ) -> dict[str, Any]:
        """Change one field of an event.

        Args:
            event_id: The event's id of 8 digits.
            field: One of: event_name, participant_email, event_start, duration.
            new_value: Its new value.
        """
        if not event_id or not field or not new_value:
            return said("Event ID, field, or new value not provided.")
        if self.tables["events"].get(event_id) is None:
            return said("Event not found.")
        if field not in FIELDS:
            return said("Field not valid.")
        if field == "participant_email":
            new_value = new_value.lower()
            if not is_email(new_value):
                return said("Invalid participant email address.")
        self.tables["events"].update(event_id, field, new_value)
        return said("Event updated successfully.")


def _end(row: dict[str, str | None]) -> str:
    """When an event ends; its start where start or duration cannot be read."""
    start = row["event_start"] or ""
    try:
        return str(datetime.fromisoformat(start) + timedelta(minutes=float(row["duration"] or 0)))
    except (ValueError, OverflowError):
        return start
