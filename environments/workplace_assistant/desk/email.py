"""Emails: one mailbox, in and out."""

from __future__ import annotations

from typing import Any

from kubegym import tool

from .tables import PAGE, Table, is_email, paged, said

NOW = "2026-03-12 18:00:00"
"""When everything happens that the tools do."""


class Email:
    """The mailbox."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def email_get_email_information_by_id(
        self, email_id: str | None = None, field: str | None = None
    ) -> dict[str, Any]:
        """Get one field of an email.

        Args:
            email_id: The email's id.
            field: One of: email_id, inbox/outbox, sender/recipient, subject, sent_datetime, body.
        """
        if not email_id or not field:
            return said("Email ID not provided." if not email_id else "Field not provided.")
        row = self.tables["emails"].get(email_id)
        if row is None:
            return said("Email not found.")
        return said({field: row[field]} if field in row else "Field not found.")

    @tool(parallel=True)
    def email_search_emails(
        self,
        query: str = "",
        date_min: str | None = None,
        date_max: str | None = None,
        page: int = 1,
        page_size: int = PAGE,
    ) -> dict[str, Any]:
        """Find emails whose subject, body or address has every word of the query; the latest first.

        Args:
            query: Words to look for.
            date_min: The earliest date of sending, YYYY-MM-DD.
            date_max: The latest date of sending, YYYY-MM-DD.
            page: Which page of results, from 1.
            page_size: Results on a page.
        """
        found = self.tables["emails"].search(query.lower().split())
        found = [row for row in found if within((row["sent_datetime"] or "")[:10], date_min, date_max)]
        found.sort(key=lambda row: row["sent_datetime"] or "", reverse=True)
        return said(paged(found, "emails", page, page_size) if found else "No emails found.")

    @tool
    def email_send_email(
        self, recipient: str | None = None, subject: str | None = None, body: str | None = None
    ) -> dict[str, Any]:
        """Send an email.

        Args:
            recipient: The recipient's address.
            subject: The subject.
            body: The text.
        """
        if not recipient or not subject or not body:
            return said("Recipient, subject, or body not provided.")
        return said(self._sent(recipient, subject, body) or "Email sent successfully.")

    @tool
    def email_delete_email(self, email_id: str | None = None) -> dict[str, Any]:
        """Delete an email.

        Args:
            email_id: The email's id.
        """
        if not email_id:
            return said("Email ID not provided.")
        return said("Email deleted successfully." if self.tables["emails"].delete(email_id) else "Email not found.")

    @tool
    def email_forward_email(self, email_id: str | None = None, recipient: str | None = None) -> dict[str, Any]:
        """Forward an email.

        Args:
            email_id: The email's id.
            recipient: The address to forward it to.
        """
        if not email_id or not recipient:
            return said("Email ID or recipient not provided.")
        row = self.tables["emails"].get(email_id)
        if row is None:
            return said("Email not found.")
        problem = self._sent(recipient, f"FW: {row['subject']}", row["body"] or "")
        return said(problem or "Email forwarded successfully.")

    @tool
    def email_reply_email(self, email_id: str | None = None, body: str | None = None) -> dict[str, Any]:
        """Reply to an email.

        Args:
            email_id: The email's id.
            body: The text of the reply.
        """
        if not email_id or not body:
            return said("Email ID or body not provided.")
        row = self.tables["emails"].get(email_id)
        if row is None:
            return said("Email not found.")
        problem = self._sent(row["sender/recipient"] or "", row["subject"] or "", body)
        return said(problem or "Email replied successfully.")

    def _sent(self, recipient: str, subject: str, body: str) -> str | None:
        """Put an email into the outbox; what is wrong with it where it cannot be."""
        if not is_email(recipient):
            return "Invalid recipient email address."
        self.tables["emails"].add(
            **{"inbox/outbox": "outbox", "sender/recipient": recipient.lower(), "sent_datetime": NOW},
            subject=subject,
            body=body,
        )
        return None


def within(value: str, least: str | None, most: str | None) -> bool:
    """Whether a date or time lies between two others, which may be absent; as texts, in ISO order."""
    return not (least and value < least) and not (most and value > most)
