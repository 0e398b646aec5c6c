"""What each variant checks, what is right, and the cheats that it has to withstand. Payloads come from the row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubegym import Rollout

if TYPE_CHECKING:
    from .app import Capabilities

Payload = dict[str, Any]
Checked = tuple[Any, bool]

_ANSWER = re.compile(r"^[ \t]*answer:(.*)$", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)
_ASKS = {
    "day": re.compile(r"\b(day|date|when)\b", re.IGNORECASE),
    "time": re.compile(r"\b(time|hour|when)\b", re.IGNORECASE),
    "people": re.compile(r"\b(people|persons|guests|party|many)\b", re.IGNORECASE),
}


@dataclass(frozen=True)
class Variant:
    """A variant.

    Attributes:
        needs: what its payload must have.
        check: the answer that was read, and whether it is right.
        oracle: perfect replies.
        cheats: replies that must not earn anything, by name.
    """

    needs: tuple[str, ...]
    check: Callable[[Capabilities, Rollout], Checked]
    oracle: Callable[[Payload], list[Any]]
    cheats: Callable[[Payload], dict[str, list[Any]]]


def the_answer(text: str) -> str | None:
    """What follows ``Answer:`` on the text's one such line; none where there are several."""
    found = [answer for line in _ANSWER.findall(text) if (answer := line.strip())]
    return found[0].rstrip(".") if len(found) == 1 else None


def _said(env: Capabilities, rollout: Rollout) -> Checked:
    """The answer line equals the payload's answer."""
    answer = the_answer(rollout.final_text)
    return answer, answer == str(env.task.payload["answer"])


def _answer(payload: Payload) -> list[Any]:
    return [f"Answer: {payload['answer']}"]


def _decoys(payload: Payload) -> dict[str, list[Any]]:
    """What one says who did not read on: the payload's decoys, and all of them at once."""
    lines = [f"Answer: {decoy}" for decoy in payload["decoys"]]
    several = "\n".join([*lines, f"Answer: {payload['answer']}"])
    return {
        "usual answer": [lines[0]],
        "several answers": [several],
        "one line of all": [f"Answer: {', '.join(map(str, [*payload['decoys'], payload['answer']]))}"],
    }


def _chain(payload: Payload) -> list[Any]:
    lookups = [{"name": "look_up", "arguments": {"key": key}} for key in payload["chain"]]
    return [*lookups, *_answer(payload)]


def _guessing(payload: Payload) -> dict[str, list[Any]]:
    first = {"name": "look_up", "arguments": {"key": payload["chain"][0]}}
    last = {"name": "look_up", "arguments": {"key": f"{payload['chain'][-1]}-x"}}
    return {"first step only": [first, "Answer: unknown"], "made-up key": [last, "Answer: K-000000"]}


def user_reply(text: str, payload: Payload) -> tuple[str, list[str]]:
    """What the user says to a message, and what it asked for. Only what is asked for is told."""
    asked = [name for name, pattern in _ASKS.items() if pattern.search(text)] if "?" in text else []
    told = [f"{name}: {payload['wanted'][name]}" for name in asked if name in payload["hidden"]]
    if told:
        return ", ".join(told), asked
    return ("I told you that already." if asked else "Please book it."), asked


def _booked(env: Capabilities, rollout: Rollout) -> Checked:
    """The booking is what the user wants, and nothing was asked that the user had said."""
    payload = env.task.payload
    needless = [name for name in env.asked if name not in payload["hidden"]]
    return env.booked, env.booked == payload["wanted"] and not needless


def _asking(payload: Payload) -> list[Any]:
    words = {"day": "Which day", "time": "At which hour", "people": "For how many guests"}
    questions = [f"{words[name]}?" for name in payload["hidden"]]
    return [*questions, {"name": "book", "arguments": payload["wanted"]}, "It is booked."]


def _not_asking(payload: Payload) -> dict[str, list[Any]]:
    guess = {"day": "friday", "time": "19:00", "people": 2}
    known = {name: value for name, value in payload["wanted"].items() if name not in payload["hidden"]}
    everything = "Which day, at which time, and for how many people?"
    cheats: dict[str, list[Any]] = {"never books": [everything, "It is booked."]}
    if payload["hidden"]:
        cheats["guesses"] = [{"name": "book", "arguments": {**guess, **known}}, "It is booked."]
    if len(payload["hidden"]) < len(payload["wanted"]):
        cheats["asks for everything"] = [everything, {"name": "book", "arguments": payload["wanted"]}, "It is booked."]
    return cheats


def _json(env: Capabilities, rollout: Rollout) -> Checked:
    """The whole message is the wanted JSON: every field, name and type, and nothing else."""
    text = rollout.final_text.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None, False
    return value, same(value, env.task.payload["answer"])


def same(value: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal, types included: 1 is neither 1.0 nor true."""
    if type(value) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(same(value[name], part) for name, part in wanted.items())
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    return bool(value == wanted)


def _near_json(payload: Payload) -> dict[str, list[Any]]:
    answer = payload["answer"]
    texts = {name: str(value) if not isinstance(value, dict | list) else value for name, value in answer.items()}
    return {
        "all as texts": [json.dumps(texts)],
        "empty values": [json.dumps(dict.fromkeys(answer))],
        "more than asked": [json.dumps({**answer, "note": "as you wish"})],
        "with chatter": [f"Here you are: {json.dumps(answer)}"],
    }


def _list(env: Capabilities, rollout: Rollout) -> Checked:
    """The list is as all wishes together leave it."""
    left = {name: count for name, count in env.items.items() if count != 0}
    return left, left == env.task.payload["answer"]


def _set(items: Mapping[str, int]) -> list[Any]:
    return [{"name": "set_item", "arguments": {"name": name, "count": count}} for name, count in items.items()]


def _all_wishes(payload: Payload) -> list[Any]:
    gone = dict.fromkeys(payload["start"], 0)
    changes = {name: n for name, n in {**gone, **payload["answer"]}.items() if payload["start"].get(name, 0) != n}
    return [*_set(changes), "Done."]


def _some_wishes(payload: Payload) -> dict[str, list[Any]]:
    return {
        "all but the last wish": [*_all_wishes(payload)[:-2], "Done."],
        "said, not done": ["I have changed the list as you asked."],
        "empties the list": [*_set(dict.fromkeys(payload["start"], 0)), "Done."],
    }


VARIANTS: dict[str, Variant] = {
    "information-dependency": Variant(("entries", "chain", "answer"), _said, _chain, _guessing),
    "proactive-asking": Variant(("wanted", "hidden", "patience"), _booked, _asking, _not_asking),
    "schema-adherence": Variant(("answer",), _json, lambda payload: [json.dumps(payload["answer"])], _near_json),
    "metadata-instruction-following": Variant(("answer", "decoys"), _said, _answer, _decoys),
    "counterintuitive-instruction-following": Variant(("answer", "decoys"), _said, _answer, _decoys),
    "information-relevance": Variant(("answer", "decoys"), _said, _answer, _decoys),
    "multiple-intent-synthesis": Variant(("start", "answer"), _list, _all_wishes, _some_wishes),
}
