"""Writes the tables and ``example.jsonl`` beside it: ``python data/generate.py``. The same every time.

People, companies and texts are made up.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

TODAY = date(2026, 3, 12)
PEOPLE = (
    "amara.okafor", "bruno.keller", "chen.wei", "dalia.haddad", "erik.lund", "farida.aziz", "goran.petrov",
    "hana.sato", "ines.moreau", "jonas.weber", "kavya.nair", "liam.byrne", "mira.kovac", "noor.khalil",
)  # fmt: skip
DOMAIN = "meridian.example"
TOPICS = (
    "quarterly budget", "office move", "new onboarding guide", "server upgrade", "holiday schedule", "press release",
    "vendor contract", "training plan", "security audit", "product launch", "design system", "travel policy",
)  # fmt: skip
MEETINGS = (
    "Sprint planning", "Budget review", "Design workshop", "Security briefing", "Launch retro", "Hiring sync",
    "Roadmap talk", "Press prep", "Vendor call", "Architecture review", "Data review", "Support sync",
)  # fmt: skip
CHORES = (
    "Fix login timeout", "Add search filter", "Update icon set", "Refactor billing", "Improve caching",
    "Write release notes", "Test checkout", "Redesign footer", "Migrate database", "Localise settings",
)  # fmt: skip
LISTS, BOARDS = ("Backlog", "In Progress", "In Review", "Completed"), ("Back end", "Front end", "Design")
STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
FIRST = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jack", "Kira", "Leo", "Maja", "Nils")
LAST = ("Arden", "Bolt", "Crane", "Dover", "Ember", "Frost", "Grove", "Hale", "Ivory", "Jarvis", "Knox", "Lark")
SOURCES = ("direct", "referral", "search engine", "social media")
SYSTEM = (
    f"Today is {TODAY:%A}, {TODAY}, and it is 18:00. You work for an employee of Meridian by calling tools. Do exactly "
    "what is asked, and no more. Colleagues' addresses are in the company directory."
)
Rows = list[dict[str, str]]
Made = tuple[str, str, list[dict[str, str]]]


def address(person: str) -> str:
    """A colleague's email address."""
    return f"{person}@{DOMAIN}"


def named(person: str) -> str:
    """A colleague's name as people write it."""
    return " ".join(part.capitalize() for part in person.split("."))


def tables(seed: int = 7) -> dict[str, Rows]:
    """All tables, each as rows."""
    rng = random.Random(seed)
    return {
        "emails": _emails(rng),
        "events": _events(rng),
        "visits": _visits(rng),
        "tasks": _tasks(rng),
        "customers": _customers(rng),
        "directory": [{"email_address": address(person)} for person in PEOPLE],
    }


def _emails(rng: random.Random) -> Rows:
    pairs = [(person, topic) for person in PEOPLE for topic in TOPICS]
    rows = []
    for number, (person, topic) in enumerate(rng.sample(pairs, len(pairs))):
        sent = datetime(2026, 1, 5, 8) + timedelta(hours=9 * number, minutes=rng.randrange(60))
        rows.append(
            {
                "email_id": f"{number + 1:08d}",
                "inbox/outbox": "inbox",
                "sender/recipient": address(person),
                "subject": f"{rng.choice(('Question on', 'Update on', 'Notes on'))} the {topic}",
                "sent_datetime": str(sent),
                "body": f"Hello, here is where we stand with the {topic}. Best, {named(person)}",
            }
        )
    return rows


def _events(rng: random.Random) -> Rows:
    pairs = rng.sample([(person, meeting) for person in PEOPLE for meeting in MEETINGS], 120)
    return [
        {
            "event_id": f"{number + 1:08d}",
            "event_name": meeting,
            "participant_email": address(person),
            "event_start": str(datetime(2026, 3, 13, 9) + timedelta(days=number // 4, minutes=120 * (number % 4))),
            "duration": rng.choice(("30", "60", "90")),
        }
        for number, (person, meeting) in enumerate(pairs)
    ]


def _visits(rng: random.Random) -> Rows:
    return [
        {
            "date_of_visit": str(date(2026, 2, 1) + timedelta(days=rng.randrange(40))),
            "visitor_id": f"{rng.randrange(1, 200):04d}",
            "page_views": str(rng.randint(1, 20)),
            "session_duration_seconds": str(rng.randint(5, 600)),
            "traffic_source": rng.choice(SOURCES),
            "user_engaged": str(rng.random() < 0.4),
        }
        for _ in range(300)
    ]


def _tasks(rng: random.Random) -> Rows:
    triples = rng.sample([(chore, person, board) for chore in CHORES for person in PEOPLE for board in BOARDS], 140)
    return [
        {
            "task_id": f"{number + 1:08d}",
            "task_name": chore,
            "assigned_to_email": address(person),
            "list_name": rng.choice(LISTS),
            "due_date": str(TODAY + timedelta(days=rng.randint(-20, 40))),
            "board": board,
        }
        for number, (chore, person, board) in enumerate(triples)
    ]


def _customers(rng: random.Random) -> Rows:
    names = rng.sample([(first, last) for first in FIRST for last in LAST], 120)
    return [
        {
            "customer_id": f"{number + 1:08d}",
            "assigned_to_email": address(rng.choice(PEOPLE)),
            "customer_name": f"{first} {last}",
            "customer_email": f"{first}.{last}@client.example".lower(),
            "customer_phone": f"555-{number:04d}",
            "last_contact_date": str(TODAY - timedelta(days=rng.randint(1, 90))),
            "product_interest": rng.choice(PRODUCTS),
            "status": rng.choice(STATUSES),
            "follow_up_by": str(TODAY + timedelta(days=rng.randint(1, 60))),
            "notes": "",
        }
        for number, (first, last) in enumerate(names)
    ]


def reply(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Answer an email that sender and topic name."""
    email = rng.choice(data["emails"])
    body = f"Thanks, I will look into it by {TODAY + timedelta(days=rng.randint(1, 20))}."
    who = named(email["sender/recipient"].partition("@")[0])
    text = f"Reply to {who}'s email with the subject '{email['subject']}': '{body}'"
    return "email", text, [call("email_reply_email", email_id=email["email_id"], body=body)]


def forward(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Forward an email, then delete it."""
    email, person = rng.choice(data["emails"]), rng.choice(PEOPLE)
    who = named(email["sender/recipient"].partition("@")[0])
    text = f"Forward {who}'s '{email['subject']}' to {named(person)}, then delete it from my mailbox."
    return "email", text, [
        call("email_forward_email", email_id=email["email_id"], recipient=address(person)),
        call("email_delete_email", email_id=email["email_id"]),
    ]  # fmt: skip


def move(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Move an event to another time and length."""
    event = rng.choice(data["events"])
    start = f"{datetime.fromisoformat(event['event_start']).date()} {rng.choice(('13', '16', '17'))}:30:00"
    duration = rng.choice(("20", "45", "50"))
    who = named(event["participant_email"].partition("@")[0])
    text = (
        f"Move my '{event['event_name']}' with {who} to {start[11:16]} on the same day and make it {duration} minutes."
    )
    return "calendar", text, [
        call("calendar_update_event", event_id=event["event_id"], field="event_start", new_value=start),
        call("calendar_update_event", event_id=event["event_id"], field="duration", new_value=duration),
    ]  # fmt: skip


def invite(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Create an event and tell the participant."""
    person, topic = rng.choice(PEOPLE), rng.choice(TOPICS)
    start = datetime(2026, 5, 1, rng.randint(9, 16)) + timedelta(days=rng.randrange(25))
    text = (
        f"Schedule '{topic.capitalize()}' with {named(person)} on {start.date()} at {start:%H:%M} for 30 minutes, and "
        f"email them with the subject 'Invitation' and the text 'See you on {start.date()}.'"
    )
    return "calendar", text, [
        call("calendar_create_event", event_name=topic.capitalize(), participant_email=address(person),
             event_start=str(start), duration="30"),
        call("email_send_email", recipient=address(person), subject="Invitation", body=f"See you on {start.date()}."),
    ]  # fmt: skip


def plot(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Plot a value over some days."""
    first = date(2026, 2, 1) + timedelta(days=rng.randrange(15))
    last = first + timedelta(days=rng.randint(3, 20))
    kind = rng.choice(("bar", "line", "scatter", "histogram"))
    value, words = rng.choice((("total_visits", "all visits"), ("user_engaged", "engaged users")))
    text = f"Make a {kind} plot of {words} of the web site from {first} to {last}."
    arguments = {"time_min": str(first), "time_max": str(last), "value_to_plot": value, "plot_type": kind}
    return "analytics", text, [call("analytics_create_plot", **arguments)]


def finish(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Complete all tasks of a person that are in review."""
    person = rng.choice([p for p in PEOPLE if _of(data["tasks"], p, "In Review")])
    text = f"Move every task of {named(person)} that is in review to Completed."
    found = _of(data["tasks"], person, "In Review")
    return "project_management", text, [
        call("project_management_update_task", task_id=one["task_id"], field="list_name", new_value="Completed")
        for one in found
    ]  # fmt: skip


def open_task(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Create a task and delete another."""
    person, board, old = rng.choice(PEOPLE), rng.choice(BOARDS), rng.choice(data["tasks"])
    due = str(TODAY + timedelta(days=rng.randint(5, 30)))
    name = f"Document {rng.choice(TOPICS)}"
    who = named(old["assigned_to_email"].partition("@")[0])
    text = (
        f"Delete {who}'s task '{old['task_name']}' on the {old['board']} board. Then add the task '{name}' to the "
        f"{board} board's backlog for {named(person)}, due {due}."
    )
    return "project_management", text, [
        call("project_management_delete_task", task_id=old["task_id"]),
        call("project_management_create_task", task_name=name, assigned_to_email=address(person), list_name="Backlog",
             due_date=due, board=board),
    ]  # fmt: skip


def _of(tasks: Rows, person: str, list_name: str) -> Rows:
    return [one for one in tasks if one["assigned_to_email"] == address(person) and one["list_name"] == list_name]


def hand_over(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Give a customer to a colleague, with a status and a date."""
    customer, person = rng.choice(data["customers"]), rng.choice(PEOPLE)
    status = rng.choice([one for one in STATUSES if one != customer["status"]])
    due = str(TODAY + timedelta(days=rng.randint(61, 90)))
    text = (
        f"{customer['customer_name']} is now {named(person)}'s customer: reassign the record, set its status to "
        f"{status}, and follow up by {due}."
    )
    fields = {"assigned_to_email": address(person), "status": status, "follow_up_by": due}
    return "customer_relationship_manager", text, [
        call("customer_relationship_manager_update_customer", customer_id=customer["customer_id"], field=field,
             new_value=value)
        for field, value in fields.items()
    ]  # fmt: skip


def win(rng: random.Random, data: dict[str, Rows]) -> Made:
    """Add a customer and delete another."""
    person, product, gone = rng.choice(PEOPLE), rng.choice(PRODUCTS), rng.choice(data["customers"])
    name = f"{rng.choice(FIRST)} Nova{rng.randrange(100)}"
    text = (
        f"Add the customer {name} as a lead interested in {product.lower()}, assigned to {named(person)}. And delete "
        f"the record of {gone['customer_name']}."
    )
    return "customer_relationship_manager", text, [
        call("customer_relationship_manager_add_customer", customer_name=name, assigned_to_email=address(person),
             status="Lead", product_interest=product),
        call("customer_relationship_manager_delete_customer", customer_id=gone["customer_id"]),
    ]  # fmt: skip


TEMPLATES: tuple[Callable[[random.Random, dict[str, Rows]], Made], ...] = (
    reply, forward, move, invite, plot, finish, open_task, hand_over, win,
)  # fmt: skip


def call(name: str, **arguments: str) -> dict[str, str]:
    """A call of the ground truth."""
    return {"name": name, "arguments": json.dumps(arguments)}


def rows(count: int = 18, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Tasks, of each template in turn; none twice."""
    rng = random.Random(seed)
    data = tables()
    seen: set[str] = set()
    number = 0
    while len(seen) < count:
        category, text, truth = TEMPLATES[number % len(TEMPLATES)](rng, data)
        number += 1
        if text in seen:
            continue
        seen.add(text)
        yield {
            "responses_create_params": {
                "input": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
                "parallel_tool_calls": False,
            },
            "id": len(seen) - 1,
            "category": f"workplace_assistant_{category}",
            "environment_name": "workplace_assistant",
            "ground_truth": truth,
        }


def csv_text(listed: Rows) -> str:
    """A table as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def content() -> dict[str, str]:
    """All files, by name."""
    files = {f"{name}.csv": csv_text(listed) for name, listed in tables().items()}
    files["example.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows())
    return files


if __name__ == "__main__":
    for name, text in content().items():
        Path(__file__).with_name(name).write_text(text)
