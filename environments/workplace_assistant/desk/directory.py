"""The company directory."""

from __future__ import annotations

from typing import Any

from kubegym import tool

from .tables import Table, said


class Directory:
    """Names and addresses of the company."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def company_directory_find_email_address(self, name: str = "") -> dict[str, Any]:
        """Find the email addresses that contain a name, in either case.

        Args:
            name: A name or a part of it.
        """
        if not name:
            return said("Name not provided.")
        return said([row["email_address"] for row in self.tables["directory"].search([name.lower()])])
