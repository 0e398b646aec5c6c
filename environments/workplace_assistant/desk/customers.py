"""Customer records."""

from __future__ import annotations

from typing import Any

from kubegym import tool

from .email import within
from .tables import PAGE, Table, paged, said

STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
FIELDS = (
    "customer_name",
    "assigned_to_email",
    "customer_email",
    "customer_phone",
    "last_contact_date",
    "product_interest",
    "status",
    "notes",
    "follow_up_by",
)


class Customers:
    """The customer relationship manager."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def customer_relationship_manager_search_customers(
        self,
        customer_name: str | None = None,
        customer_email: str | None = None,
        product_interest: str | None = None,
        status: str | None = None,
        assigned_to_email: str | None = None,
        last_contact_date_min: str | None = None,
        last_contact_date_max: str | None = None,
        follow_up_by_min: str | None = None,
        follow_up_by_max: str | None = None,
        page: int = 1,
        page_size: int = PAGE,
    ) -> dict[str, Any]:
        """Find customers by any of their fields, or by parts of them.

        Args:
            customer_name: The customer's name.
            customer_email: The customer's address.
            product_interest: What the customer is interested in.
            status: The customer's status.
            assigned_to_email: The address of whom the customer is assigned to.
            last_contact_date_min: The earliest date of the last contact, YYYY-MM-DD.
            last_contact_date_max: The latest date of the last contact, YYYY-MM-DD.
            follow_up_by_min: The earliest date to follow up by, YYYY-MM-DD.
            follow_up_by_max: The latest date to follow up by, YYYY-MM-DD.
            page: Which page of results, from 1.
            page_size: Results on a page.
        """
        names = ("customer_name", "customer_email", "product_interest", "status", "assigned_to_email")
        given = zip(names, (customer_name, customer_email, product_interest, status, assigned_to_email), strict=True)
        wanted = {field: value.lower() for field, value in given if value}
        dates = {
            "last_contact_date": (last_contact_date_min, last_contact_date_max),
            "follow_up_by": (follow_up_by_min, follow_up_by_max),
        }
        if not wanted and not any(least or most for least, most in dates.values()):
            return said("No search parameters provided. Please provide at least one parameter.")
        found = [
            row
            for row in self.tables["customers"].rows()
            if all(value in (row[field] or "").lower() for field, value in wanted.items())
            and all(within(row[field] or "", least, most) for field, (least, most) in dates.items())
        ]
        return said(paged(found, "customers", page, page_size))

    @tool
    def customer_relationship_manager_update_customer(
        self, customer_id: str | None = None, field: str | None = None, new_value: str | None = None
    ) -> dict[str, Any]:
        """Change one field of a customer.

        Args:
            customer_id: The customer's id.
            field: One of: customer_name, assigned_to_email, customer_email, customer_phone, last_contact_date,
                product_interest, status, notes, follow_up_by.
            new_value: Its new value.
        """
        if not customer_id or not field or not new_value:
            return said("Customer ID, field, or new value not provided.")
        problem = _wrong(field, new_value)
        if problem is not None:
            return said(problem)
        value = new_value.lower() if field in ("customer_email", "assigned_to_email") else new_value
        found = self.tables["customers"].update(customer_id, field, value)
        return said("Customer updated successfully." if found else "Customer not found.")

    @tool
    def customer_relationship_manager_add_customer(
        self,
        customer_name: str | None = None,
        assigned_to_email: str | None = None,
        status: str | None = None,
        customer_email: str | None = None,
        customer_phone: str | None = None,
        last_contact_date: str | None = None,
        product_interest: str | None = None,
        notes: str = "",
        follow_up_by: str | None = None,
    ) -> dict[str, Any]:
        """Add a customer; the id is the answer.

        Args:
            customer_name: The customer's name.
            assigned_to_email: The address of whom the customer is assigned to.
            status: One of: Qualified, Won, Lost, Lead, Proposal.
            customer_email: The customer's address.
            customer_phone: The customer's phone number.
            last_contact_date: The date of the last contact, YYYY-MM-DD.
            product_interest: One of: Software, Hardware, Services, Consulting, Training.
            notes: Notes.
            follow_up_by: The date to follow up by, YYYY-MM-DD.
        """
        if not customer_name or not assigned_to_email or not status:
            return said("Please provide all required fields: customer_name, assigned_to_email, status.")
        return said(
            self.tables["customers"].add(
                customer_name=customer_name,
                assigned_to_email=assigned_to_email.lower(),
                customer_email=customer_email.lower() if customer_email else None,
                customer_phone=customer_phone,
                last_contact_date=last_contact_date,
                product_interest=product_interest,
                status=status,
                notes=notes,
                follow_up_by=follow_up_by,
            )
        )

    @tool
    def customer_relationship_manager_delete_customer(self, customer_id: str | None = None) -> dict[str, Any]:
        """Delete a customer.

        Args:
            customer_id: The customer's id.
        """
        if not customer_id:
            return said("Customer ID not provided.")
        deleted = self.tables["customers"].delete(customer_id)
        return said("Customer deleted successfully." if deleted else "Customer not found.")


def _wrong(field: str, value: str) -> str | None:
    if field not in FIELDS:
        return f"Field not valid. Please choose from: {', '.join(map(repr, FIELDS))}"
    if field == "status" and value not in STATUSES:
        return f"Status not valid. Please choose from: {', '.join(map(repr, STATUSES))}"
    if field == "product_interest" and value not in PRODUCTS:
        return f"Product interest not valid. Please choose from: {', '.join(map(repr, PRODUCTS))}"
    return None
