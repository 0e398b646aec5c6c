"""Tools one by one, and which final states are right."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from kubegym.testing import Played, play

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (FOLDER / "data/example.jsonl").read_text().splitlines()]
MADE = runpy.run_path(str(FOLDER / "data/generate.py"))
TABLES = MADE["tables"]()
PARITY = {"parity": "nemo-gym"}
EMAIL, EVENT, TASK, CUSTOMER = (TABLES[name][0] for name in ("emails", "events", "tasks", "customers"))


def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
    return {"name": tool, "arguments": arguments}


def truth(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"ground_truth": [{**one, "arguments": json.dumps(one["arguments"])} for one in calls]}


def played(calls: list[dict[str, Any]], task: dict[str, Any], config: dict[str, str] | None = None) -> Played:
    return play(FOLDER, task, [*calls, "Done."], config)


def output(tool: str, /, **arguments: Any) -> Any:
    (text,) = played([call(tool, **arguments)], truth()).tool_outputs
    return json.loads(text)["output"]


SEND = call("email_send_email", recipient="amara.okafor@meridian.example", subject="Hi", body="One.")
OTHER = call("email_send_email", recipient="bruno.keller@meridian.example", subject="Hi", body="Two.")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['id']}-{row['category']}")
@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
def test_the_oracle_earns_every_example(row: dict[str, Any], config: dict[str, str]) -> None:
    rollout = play(FOLDER, row, "oracle", config)
    assert rollout.reward == 1.0
    assert not any(word in text for text in rollout.tool_outputs for word in ("not ", "Invalid", "Missing"))


def test_files_are_what_the_script_writes() -> None:
    for name, text in MADE["content"]().items():
        assert (FOLDER / "data" / name).read_text() == text, name


def test_there_are_27_tools_and_each_says_what_it_does() -> None:
    offered = played([], truth()).requests[0]["tools"]
    assert len(offered) == 27
    assert all(one["description"] for one in offered)
    assert all(part["description"] for one in offered for part in one["parameters"]["properties"].values())


def test_the_directory() -> None:
    assert output("company_directory_find_email_address", name="AMARA") == ["amara.okafor@meridian.example"]
    assert output("company_directory_find_email_address", name="nobody") == []
    assert output("company_directory_find_email_address") == "Name not provided."


def test_emails_are_found_by_words_and_dates_the_latest_first() -> None:
    found = output("email_search_emails", query="budget AMARA")
    assert [one["sender/recipient"] for one in found["emails"]] == ["amara.okafor@meridian.example"]
    assert found["pagination"] == {"total_emails": 1, "page": 1, "page_size": 5, "total_pages": 1}
    dates = [one["sent_datetime"] for one in output("email_search_emails", query="budget", page_size=50)["emails"]]
    assert dates == sorted(dates, reverse=True)
    bounds = {"date_min": dates[2][:10], "date_max": dates[1][:10]}
    assert [one["sent_datetime"] for one in output("email_search_emails", query="budget", **bounds)["emails"]] == dates[
        1:3
    ]
    pages = [output("email_search_emails", query="budget", page=page)["emails"] for page in (1, 2, 99)]
    assert [one["sent_datetime"] for page in pages for one in page] == dates[:10]
    assert output("email_search_emails", query="zebra") == "No emails found."


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (
            "email_get_email_information_by_id",
            {"email_id": "00000001", "field": "subject"},
            {"subject": EMAIL["subject"]},
        ),
        ("email_get_email_information_by_id", {"email_id": "00000001", "field": "colour"}, "Field not found."),
        ("email_get_email_information_by_id", {"email_id": "9", "field": "subject"}, "Email not found."),
        ("email_send_email", {"recipient": "amara", "subject": "a", "body": "b"}, "Invalid recipient email address."),
        (
            "email_send_email",
            {"recipient": "a@b.c", "subject": "", "body": "b"},
            "Recipient, subject, or body not provided.",
        ),
        ("email_delete_email", {"email_id": "00000001"}, "Email deleted successfully."),
        ("email_delete_email", {"email_id": "9"}, "Email not found."),
        ("email_forward_email", {"email_id": "00000001", "recipient": "a@b.c"}, "Email forwarded successfully."),
        ("email_reply_email", {"email_id": "00000001", "body": "Yes."}, "Email replied successfully."),
        ("email_reply_email", {"email_id": "9", "body": "Yes."}, "Email not found."),
        (
            "calendar_get_event_information_by_id",
            {"event_id": "00000001", "field": "duration"},
            {"duration": EVENT["duration"]},
        ),
        (
            "calendar_create_event",
            {"event_name": "x", "participant_email": "A@b.c", "event_start": "2026-05-01 09:00:00", "duration": "30"},
            "00000121",
        ),
        (
            "calendar_create_event",
            {"event_name": "x", "participant_email": "a", "event_start": "t", "duration": "30"},
            "Invalid participant email address.",
        ),
        (
            "calendar_create_event",
            {"event_name": "x", "participant_email": "a@b.c", "event_start": "t"},
            "Duration not provided.",
        ),
        ("calendar_update_event", {"event_id": "00000001", "field": "event_id", "new_value": "2"}, "Field not valid."),
        (
            "calendar_update_event",
            {"event_id": "00000001", "field": "duration", "new_value": "15"},
            "Event updated successfully.",
        ),
        ("calendar_delete_event", {"event_id": "00000001"}, "Event deleted successfully."),
        (
            "analytics_create_plot",
            {"time_min": "2026-02-01", "time_max": "2026-02-05", "value_to_plot": "total_visits", "plot_type": "bar"},
            "plots/2026-02-01_2026-02-05_total_visits_bar.png",
        ),
        ("analytics_get_visitor_information_by_id", {"visitor_id": "none"}, "Visitor not found."),
        (
            "project_management_get_task_information_by_id",
            {"task_id": "00000001", "field": "board"},
            {"board": TASK["board"]},
        ),
        ("project_management_search_tasks", {}, "No search parameters provided."),
        (
            "project_management_update_task",
            {"task_id": "00000001", "field": "board", "new_value": "Cellar"},
            "Board not valid. Please choose from: 'Back end', 'Front end', 'Design'.",
        ),
        (
            "project_management_update_task",
            {"task_id": "00000001", "field": "assigned_to_email", "new_value": "a@b.c"},
            "Assignee email address not valid. Please choose from the list of team members.",
        ),
        ("project_management_delete_task", {"task_id": "00000001"}, "Task deleted successfully."),
        (
            "customer_relationship_manager_search_customers",
            {},
            "No search parameters provided. Please provide at least one parameter.",
        ),
        (
            "customer_relationship_manager_update_customer",
            {"customer_id": "00000001", "field": "status", "new_value": "won"},
            "Status not valid. Please choose from: 'Qualified', 'Won', 'Lost', 'Lead', 'Proposal'",
        ),
        (
            "customer_relationship_manager_add_customer",
            {"customer_name": "N", "assigned_to_email": "a@b.c", "status": "Lead"},
            "00000121",
        ),
        ("customer_relationship_manager_delete_customer", {"customer_id": "9"}, "Customer not found."),
    ],
)
def test_what_tools_say(name: str, arguments: dict[str, Any], said: Any) -> None:
    assert output(name, **arguments) == said


def test_analytics_count_by_day() -> None:
    day = TABLES["visits"][0]["date_of_visit"]
    visits = [one for one in TABLES["visits"] if one["date_of_visit"] == day]
    bounds = {"time_min": day, "time_max": day}
    assert output("analytics_total_visits_count", **bounds) == {day: len(visits)}
    assert output("analytics_engaged_users_count", **bounds) == {day: sum(v["user_engaged"] == "True" for v in visits)}
    mean = sum(int(one["session_duration_seconds"]) for one in visits) / len(visits)
    assert output("analytics_get_average_session_duration", **bounds) == {day: pytest.approx(mean)}
    source = visits[0]["traffic_source"]
    counted = output("analytics_traffic_source_count", traffic_source=source, **bounds)
    assert counted == {day: sum(one["traffic_source"] == source for one in visits)}


def test_sessions_see_their_own_changes_and_nobody_elses() -> None:
    calls = [
        call("email_delete_email", email_id="00000001"),
        SEND,
        call("email_search_emails", query="hi one"),
        call("email_get_email_information_by_id", email_id="00000001", field="subject"),
    ]
    sent, gone = (json.loads(text)["output"] for text in played(calls, truth()).tool_outputs[2:])
    assert [(one["email_id"], one["inbox/outbox"]) for one in sent["emails"]] == [("00000169", "outbox")]
    assert gone == "Email not found."
    assert output("email_search_emails", query="hi one") == "No emails found."


def test_a_new_id_follows_the_highest_that_is_there() -> None:
    last = TABLES["tasks"][-1]["task_id"]
    new = {"task_name": "x", "assigned_to_email": "noor.khalil@meridian.example", "list_name": "Backlog"}
    create = call("project_management_create_task", **new, due_date="2026-05-01", board="Design")
    made = played([create, create, call("project_management_delete_task", task_id=last), create], truth())
    ids = [json.loads(text)["output"] for text in made.tool_outputs]
    assert (ids[0], ids[1], ids[3]) == ("00000141", "00000142", "00000143")
    first = played([call("project_management_delete_task", task_id=last), create], truth())
    assert json.loads(first.tool_outputs[1])["output"] == last


@pytest.mark.parametrize("config", [{}, PARITY], ids=["honest", "parity"])
@pytest.mark.parametrize(
    ("calls", "wanted", "different"),
    [
        ([SEND], [SEND], []),
        ([call("email_search_emails", query="budget"), SEND], [SEND], []),
        ([], [SEND], ["emails"]),
        ([SEND, SEND], [SEND], ["emails"]),
        ([SEND], [OTHER], ["emails"]),
        ([{"name": "email_send_email", "arguments": {**SEND["arguments"], "body": "ONE."}}], [SEND], []),
        ([{"name": "email_send_email", "arguments": {**SEND["arguments"], "cc": "x"}}], [SEND], ["emails"]),
        ([{"name": "email_send_email", "arguments": "{broken"}, SEND], [SEND], []),
        ([call("no_such_tool"), SEND], [SEND], []),
        (
            [
                call("project_management_update_task", task_id="00000001", field="task_name", new_value="x"),
                call(
                    "project_management_update_task", task_id="00000001", field="task_name", new_value=TASK["task_name"]
                ),
            ],
            [],
            [],
        ),
        (
            [
                call(
                    "customer_relationship_manager_update_customer",
                    customer_id="00000001",
                    field="notes",
                    new_value="Hm",
                )
            ],
            [],
            ["customers"],
        ),
        (
            [call("calendar_delete_event", event_id="00000001")],
            [call("calendar_delete_event", event_id="00000002")],
            ["events"],
        ),
        (
            [call("calendar_create_event", event_name="a", participant_email="a@b.c", event_start="s", duration=30)],
            [call("calendar_create_event", event_name="a", participant_email="a@b.c", event_start="s", duration="30")],
            ["events"],
        ),
    ],
)
def test_states(calls: Any, wanted: Any, different: list[str], config: dict[str, str]) -> None:
    rollout = played(calls, truth(*wanted), config)
    assert (rollout.reward, rollout.fields["different_tables"]) == (float(not different), different)


def test_the_order_of_new_rows_matters_in_parity_only() -> None:
    assert played([OTHER, SEND], truth(SEND, OTHER)).reward == 1.0
    assert played([OTHER, SEND], truth(SEND, OTHER), PARITY).reward == 0.0


def test_tables_come_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("email_address\nzoe@x.example\n")
    config = {"directory": str(tmp_path / "people.csv")}
    (text,) = played([call("company_directory_find_email_address", name="zoe")], truth(), config).tool_outputs
    assert json.loads(text) == {"output": ["zoe@x.example"]}
    with pytest.raises(Exception, match="cannot be read"):
        played([], truth(), {"directory": str(tmp_path / "none.csv")})


@pytest.mark.parametrize("arguments", ["[]", "{broken", "1"])
def test_a_ground_truth_that_cannot_be_played_is_refused(arguments: str) -> None:
    with pytest.raises(Exception, match="ground_truth"):
        play(FOLDER, {"ground_truth": [{"name": "email_send_email", "arguments": arguments}]}, ["x"])
