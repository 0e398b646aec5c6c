"""Token ids of a rollout as trainable sequences (DESIGN section 6 "Files", contract 2.7). Pure.

An engine tells, for every call, the ids of the whole prompt and of what it generated, with their log-probs. A call
whose prompt begins with all ids of an earlier sequence continues it: what is new of the prompt is context, what was
generated is trained. Any other prompt (a template or a harness that rewrote the history, text that came back as other
tokens) opens a sequence of its own. So every sequence is exactly what the engine saw, and no token is kept twice.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

TOKEN_FIELDS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
"""On the last output item of a model call (contract 2.7): all three, or none."""

Tokens = Literal["None", "Samples", "Inline"]
"""What a run keeps of them: nothing, sequences beside the rows, or the contract's fields in the rows."""

Runs = Sequence[tuple[int, int]]
"""Versions of the weights that made a reply, or a sample: ``(version, its first token)``, ascending."""

_IDS, _LOG_PROBS = "i", "d"  # int32; what was told is told on without a change


class CallTokens(NamedTuple):
    """One model call as its engine counts it: ids of the prompt, ids generated, and a log-prob for each of these."""

    prompt: array[int]
    generated: array[int]
    log_probs: array[float]

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> CallTokens | None:
        """The contract's fields of an item; None where they are not there, or are not ids and numbers."""
        prompt, generated, log_probs = (fields.get(name) for name in TOKEN_FIELDS)
        if prompt is None or generated is None or log_probs is None:
            return None
        try:
            told = cls(array(_IDS, prompt), array(_IDS, generated), array(_LOG_PROBS, log_probs))
        except (TypeError, OverflowError):
            return None
        return told if len(told.generated) == len(told.log_probs) else None

    def fields(self) -> dict[str, list[int] | list[float]]:
        """The contract's fields."""
        values = (self.prompt.tolist(), self.generated.tolist(), self.log_probs.tolist())
        return dict(zip(TOKEN_FIELDS, values, strict=True))


@dataclass(slots=True)
class Sample:
    """A trainable sequence.

    Attributes:
        token_ids: int32, context and generated tokens in order.
        spans: where the policy generated: ``(first, last + 1)``, ascending; the loss mask.
        log_probs: one for each generated token, in order, as the engine gave them.
        policy_runs: ``(version, first token)`` where the version changes; empty where the engine tells none.
        parent: the earlier sample of the rollout whose history this one rewrites; None for the first.
    """

    token_ids: array[int] = field(default_factory=lambda: array(_IDS))
    spans: list[tuple[int, int]] = field(default_factory=list)
    log_probs: array[float] = field(default_factory=lambda: array(_LOG_PROBS))
    policy_runs: list[tuple[int, int]] = field(default_factory=list)
    parent: int | None = None

    def continued_by(self, prompt: array[int]) -> bool:
        """Whether a prompt begins with all of these ids."""
        return len(prompt) >= len(self.token_ids) and prompt[: len(self.token_ids)] == self.token_ids

    def extend(self, call: CallTokens, runs: Runs) -> None:
        """Append what a call that continues this sample adds; ``runs`` count from its first generated token."""
        self.token_ids.extend(call.prompt[len(self.token_ids) :])
        first = len(self.token_ids)
        if call.generated:
            self.spans.append((first, first + len(call.generated)))
        for version, begin in runs:
            if not self.policy_runs or self.policy_runs[-1][0] != version:
                self.policy_runs.append((version, first + begin))
        self.token_ids.extend(call.generated)
        self.log_probs.extend(call.log_probs)


@dataclass(slots=True)
class TokenRecord:
    """The samples of one rollout, call by call.

    Attributes:
        samples: in the order in which they were opened.
        calls: ``(sample, length before the generation, length after it)`` of each call whose tokens are known.
        items: for each of these calls, the place of its last item among the conversation's outputs.
        unknown: calls whose tokens the engine did not tell; what they said is context of later ones.
    """

    samples: list[Sample] = field(default_factory=list)
    calls: list[tuple[int, int, int]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    unknown: int = 0

    @property
    def rewritten(self) -> int:
        """How often a prompt did not continue the sequence before it."""
        return max(0, len(self.samples) - 1)

    def add(self, call: CallTokens | None, item: int, version: int | None = None, runs: Runs = ()) -> None:
        """Take a call: the sample that it continues, of several the longest, grows; else a new one is opened.

        Args:
            call: its tokens; None where the engine did not tell them.
            item: the place of its last item among the conversation's outputs.
            version: of the weights, where it is known.
            runs: of the call's generated tokens, where they were made by several versions.
        """
        if call is None:
            self.unknown += 1
            return
        continued = [index for index, sample in enumerate(self.samples) if sample.continued_by(call.prompt)]
        if continued:
            index = max(continued, key=lambda one: len(self.samples[one].token_ids))
        else:
            self.samples.append(Sample(parent=self.calls[-1][0] if self.calls else None))
            index = len(self.samples) - 1
        sample = self.samples[index]
        sample.extend(call, runs or ([] if version is None else [(version, 0)]))
        self.calls.append((index, len(sample.token_ids) - len(call.generated), len(sample.token_ids)))
        self.items.append(item)

    def call(self, number: int) -> CallTokens:
        """The tokens of a call, as the engine told them."""
        index, prompt, end = self.calls[number]
        sample = self.samples[index]
        before = sum(last - first for first, last in sample.spans if last <= prompt)
        return CallTokens(
            sample.token_ids[:prompt],
            sample.token_ids[prompt:end],
            sample.log_probs[before : before + end - prompt],
        )

    def place(self, output: Sequence[dict[str, Any]]) -> None:
        """Write the contract's inline fields into the conversation's outputs."""
        for number, item in enumerate(self.items):
            output[item].update(self.call(number).fields())


def marked(items: Sequence[dict[str, Any]], call: CallTokens) -> list[dict[str, Any]]:
    """A conversation's items with a call's fields on the last one that a model put out, where the contract has them."""
    for place in range(len(items) - 1, -1, -1):
        item = items[place]
        if item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning"):
            return [*items[:place], {**item, **call.fields()}, *items[place + 1 :]]
    return list(items)


def last_told(items: Any) -> CallTokens | None:
    """The call that the last item with the contract's fields tells of."""
    for item in reversed(items) if isinstance(items, list) else ():
        if isinstance(item, dict) and TOKEN_FIELDS[0] in item:
            return CallTokens.read(item)
    return None


def taken(output: Sequence[dict[str, Any]], turns: Sequence[Mapping[str, Any]] = ()) -> TokenRecord | None:
    """The record of a conversation's outputs that carry the contract's inline fields, which are taken out of them.

    Args:
        output: Responses items, in order.
        turns: of the row, which know the versions; where there are as many as calls with fields.

    Returns:
        None where no item carries them.
    """
    places = [place for place, item in enumerate(output) if isinstance(item, dict) and TOKEN_FIELDS[0] in item]
    if not places:
        return None
    record = TokenRecord()
    known = turns if len(turns) == len(places) else [{}] * len(places)
    for place, turn in zip(places, known, strict=True):
        record.add(CallTokens.read(output[place]), place, turn.get("policy_version"), runs_of(turn))
        for name in TOKEN_FIELDS:
            output[place].pop(name, None)
    return record


def turn_of(version: int | None, runs: Runs = ()) -> dict[str, Any]:
    """A row's turn: its version, the lowest where there are several, and then which tokens are whose (DESIGN 6)."""
    if len(runs) < 2:
        return {"policy_version": version, "reward": None}
    lowest = min(number for number, _ in runs)
    return {"policy_version": lowest, "policy_runs": told_runs(runs), "reward": None}


def told_runs(runs: Runs) -> list[dict[str, int]]:
    """As JSON."""
    return [{"version": version, "from_token": first} for version, first in runs]


def versions_of(turns: Sequence[Mapping[str, Any]]) -> set[int]:
    """All versions that turns tell of."""
    whole = {turn["policy_version"] for turn in turns if turn.get("policy_version") is not None}
    return whole | {version for turn in turns for version, _ in runs_of(turn)}


def runs_of(turn: Mapping[str, Any]) -> Runs:
    """What ``turn_of`` wrote, of a turn that others may have written."""
    return read_runs(turn.get("policy_runs"))


def read_runs(told: Any) -> list[tuple[int, int]]:
    """From JSON, ``[{"version": 1, "from_token": 0}, ...]``; empty where it is anything else."""
    if not isinstance(told, list) or not all(isinstance(run, dict) for run in told):
        return []
    runs = [(run.get("version"), run.get("from_token")) for run in told]
    return [(a, b) for a, b in runs if type(a) is int and type(b) is int]
