"""Tasks on boards."""

from __future__ import annotations

from typing import Any

from kubegym import tool

from .tables import Table, said

LISTS = ("Backlog", "In Progress", "In Review", "Completed")
BOARDS = ("Back end", "Front end", "Design")
FIELDS = ("task_name", "assigned_to_email", "list_name", "due_date", "board")


class Projects:
    """The project boards."""

    tables: dict[str, Table]

    @tool(parallel=True)
    def project_management_get_task_information_by_id(
        self, task_id: str | None = None, field: str | None = None
    ) -> dict[str, Any]:
        """Get one field of a task.

        Args:
            task_id: The task's id of 8 digits.
            field: One of: task_id, task_name, assigned_to_email, list_name, due_date, board.
        """
        if not task_id or not field:
            return said("Task ID not provided." if not task_id else "Field not provided.")
        row = self.tables["tasks"].get(task_id)
        if row is None:
            return said("Task not found.")
        return said({field: row[field]} if field in row else "Field not found.")

    @tool(parallel=True)
    def project_management_search_tasks(
        self,
        task_name: str | None = None,
        assigned_to_email: str | None = None,
        list_name: str | None = None,
        due_date: str | None = None,
        board: str | None = None,
    ) -> dict[str, Any]:
        """Find tasks by any of their fields, or by parts of them.

        Args:
            task_name: The task's name.
            assigned_to_email: The address of whom it is assigned to.
            list_name: The list it is in.
            due_date: When it is due, YYYY-MM-DD.
            board: The board it is on.
        """
        given = zip(FIELDS, (task_name, assigned_to_email, list_name, due_date, board), strict=True)
        wanted = {field: value.lower() for field, value in given if value}
        if not wanted:
            return said("No search parameters provided.")
        rows = self.tables["tasks"].rows()
        return said([row for row in rows if all(value in (row[name] or "").lower() for name, value in wanted.items())])

    @tool
    def project_management_create_task(
        self,
        task_name: str | None = None,
        assigned_to_email: str | None = None,
        list_name: str | None = None,
        due_date: str | None = None,
        board: str | None = None,
    ) -> dict[str, Any]:
        """Create a task; its id is the answer.

        Args:
            task_name: The task's name.
            assigned_to_email: The address of whom it is assigned to.
            list_name: One of: Backlog, In Progress, In Review, Completed.
            due_date: When it is due, YYYY-MM-DD.
            board: One of: Back end, Front end, Design.
        """
        fields = dict(zip(FIELDS, (task_name, assigned_to_email, list_name, due_date, board), strict=True))
        if not all(fields.values()):
            return said("Missing task details.")
        problem = next((wrong for name, value in fields.items() if (wrong := self._wrong(name, str(value)))), None)
        if problem is not None:
            return said(problem)
        fields["assigned_to_email"] = str(assigned_to_email).lower()
        return said(self.tables["tasks"].add(**fields))

    @tool
    def project_management_delete_task(self, task_id: str | None = None) -> dict[str, Any]:
        """Delete a task.

        Args:
            task_id: The task's id of 8 digits.
        """
        if not task_id:
            return said("Task ID not provided.")
        return said("Task deleted successfully." if self.tables["tasks"].delete(task_id) else "Task not found.")

    @tool
    def project_management_update_task(
        self, task_id: str | None = None, field: str | None = None, new_value: str | None = None
    ) -> dict[str, Any]:
        """Change one field of a task.

        Args:
            task_id: The task's id of 8 digits.
            field: One of: task_name, assigned_to_email, list_name, due_date, board.
            new_value: Its new value.
        """
        if not task_id or not field or not new_value:
            return said("Task ID, field, or new value not provided.")
        if self.tables["tasks"].get(task_id) is None:
            return said("Task not found.")
        problem = self._wrong(field, new_value)
        if problem is not None:
            return said(problem)
        value = new_value.lower() if field == "assigned_to_email" else new_value
        self.tables["tasks"].update(task_id, field, value)
        return said("Task updated successfully.")

    def _wrong(self, field: str, value: str) -> str | None:
        """What is wrong with a value, or None."""
        if field not in FIELDS:
            return "Field not valid."
        if field == "list_name" and value not in LISTS:
            return f"List not valid. Please choose from: {', '.join(map(repr, LISTS))}."
        if field == "board" and value not in BOARDS:
            return f"Board not valid. Please choose from: {', '.join(map(repr, BOARDS))}."
        if field == "assigned_to_email" and not self._is_colleague(value.lower()):
            return "Assignee email address not valid. Please choose from the list of team members."
        return None

    def _is_colleague(self, address: str) -> bool:
        return self.tables["directory"].get(address) is not None
