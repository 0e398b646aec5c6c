import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from kubegym.core.errors import InvalidRows, InvalidSpec
from kubegym.data.dataset import DatasetSpec, MemoryDataset, open_dataset
from kubegym.data.rowcheck import check_row
from kubegym.data.validate import validate


def row(*items: Any, **params: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": list(items) if items else "hi", **params}}


GOOD = [
    row(),
    row(temperature=0.7, top_p=1, max_output_tokens=5, top_logprobs=0, stream=False, metadata={"a": "b"}, user=None),
    row(temperature=3),
    row({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "type": "message"}),
    row({"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "u"}]}),
    row({"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"}),
    row({"type": "function_call_output", "call_id": "c", "output": "1"}),
    row({"type": "reasoning", "id": "r", "summary": []}),
    row({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]}),
    row({"type": "web_search_call", "anything": 1}),
    row(
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}], tool_choice="auto"
    ),
    row(tools=[{"type": "web_search"}], tool_choice={"type": "function", "name": "f"}),
    {"responses_create_params": {"input": []}},
    {**row(), "agent_ref": {"name": "a"}, "_ng_task_index": 0, "anything": [1]},
    {**row(), "agent_ref": {"type": "responses_api_agents", "name": "a"}, "_ng_task_index": None},
    {**row(), "agent_ref": None},
]

P = "responses_create_params"
BAD = [
    ([], "a row is a JSON object, not a list"),
    (None, "a row is a JSON object, not null"),
    ({}, f"{P} is missing"),
    ({"response_create_params": {}}, f"{P} is missing; did you mean it by 'response_create_params'?"),
    ({P: []}, f"{P}: must be an object, not a list"),
    ({P: {}}, f"{P}.input is missing"),
    ({P: {"input": 3}}, f"{P}.input: must be a string or a list of items, not a number"),
    (row(temprature=1), f"{P}.temprature: unknown field; did you mean 'temperature'?"),
    (row(zzz=1), f"{P}.zzz: unknown field"),
    (row(temperature="1"), f"{P}.temperature: must be a number of at least 0, not '1'"),
    (row(temperature=True), f"{P}.temperature: must be a number of at least 0, not True"),
    (row(top_p=1.5), f"{P}.top_p: must be a number from 0 to 1, not 1.5"),
    (row(max_output_tokens=0), f"{P}.max_output_tokens: must be an integer of at least 1, not 0"),
    (row(max_output_tokens=1.0), f"{P}.max_output_tokens: must be an integer of at least 1, not 1.0"),
    (row(stream=True), f"{P}.stream: must be false in a row, not True"),
    (
        row(metadata={"a": {"b": 1}}),
        f"{P}.metadata.a: must be a string (JSON text for structured values), not an object",
    ),
    (row(parallel_tool_calls=1), f"{P}.parallel_tool_calls: must be a boolean, not a number"),
    (row(tool_choice="maybe"), f"{P}.tool_choice: must be auto, none, required or an object, not 'maybe'"),
    (row(tools={}), f"{P}.tools: must be a list, not an object"),
    (row(tools=[{"type": "function"}]), f"{P}.tools[0].name: must be a string, not null"),
    (
        row(tools=[{"type": "function", "name": "f", "parameters": "{}"}]),
        f"{P}.tools[0].parameters: must be a JSON schema (an object), not a string",
    ),
    (row("text"), f"{P}.input[0]: must be an object, not a string"),
    (row({"content": "a"}), f"{P}.input[0]: has neither a role (a message) nor a type"),
    (
        row({"role": "usr", "content": "a"}),
        f"{P}.input[0].role: must be user, assistant, system or developer, not 'usr'",
    ),
    (row({"role": "user"}), f"{P}.input[0].content: must be a string or a list of parts, not null"),
    (
        row({"role": "user", "content": [{"type": "text", "text": "a"}]}),
        f"{P}.input[0].content[0].type: unknown content part 'text'; "
        "known: input_file, input_image, input_text, input_video, output_text, refusal",
    ),
    (
        row({"role": "user", "content": [{"type": "input_text"}]}),
        f"{P}.input[0].content[0].text: must be a string, not null",
    ),
    (
        row({"role": "user", "content": [{"type": "input_video", "video": "v", "video_url": "u"}]}),
        f"{P}.input[0].content[0]: needs video_url or video, and not both",
    ),
    (
        row({"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}),
        f'{P}.input[0]: holds output_text, so it is an output message and needs "type": "message"',
    ),
    (
        row({"type": "function_cal", "name": "f"}),
        f"{P}.input[0].type: unknown item type 'function_cal'; did you mean 'function_call'?",
    ),
    (row({"type": ["x"]}), f"{P}.input[0].type: unknown item type ['x']"),
    (
        row({"type": "function_call", "name": "f", "call_id": "c", "arguments": {}}),
        f"{P}.input[0].arguments: must be a string, not an object",
    ),
    (row({"type": "function_call_output", "output": "x"}), f"{P}.input[0].call_id: must be a string, not null"),
    (row({"type": "reasoning", "id": "r"}), f"{P}.input[0].summary: must be a list, not null"),
    ({**row(), "agent_ref": "a"}, "agent_ref: must be an object like {'name': ...}, not a string"),
    ({**row(), "agent_ref": {"name": ""}}, "agent_ref.name: must be a string that is not empty"),
    (
        {**row(), "agent_ref": {"name": "a", "type": "agents"}},
        "agent_ref.type: must be 'responses_api_agents', not 'agents'",
    ),
    ({**row(), "_ng_task_index": -1}, "_ng_task_index: must be an integer of at least 0, not -1"),
    ({**row(), "_ng_task_index": True}, "_ng_task_index: must be an integer of at least 0, not True"),
]


@pytest.mark.parametrize("value", GOOD, ids=range(len(GOOD)))
def test_rows_that_can_be_run(value: Any) -> None:
    assert check_row(orjson.loads(orjson.dumps(value))) is None


@pytest.mark.parametrize(("value", "problem"), BAD, ids=range(len(BAD)))
def test_rows_that_cannot_and_why(value: Any, problem: str) -> None:
    assert check_row(orjson.loads(orjson.dumps(value))) == problem


async def test_what_is_counted() -> None:
    datasets = [
        ("a", MemoryDataset([row(), {**row(), "agent_ref": {"name": "b_agent"}}, {**row(), "_ng_task_index": 7}])),
        ("b", MemoryDataset([{**row(), "agent_ref": {"name": "b_agent"}}])),
    ]
    seen = []
    valid = await validate(datasets, {"b_agent": "b"}, progress=seen.append)
    assert (valid.rows, valid.entries, valid.indexed) == (4, {"a": 2, "b": 2}, 1)
    assert seen == [4]


async def test_every_bad_row_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = orjson.dumps(row())
    path.write_bytes(b"\n".join([good, b"", b"{", good, b"[1]", b'{"responses_create_params":{"input":NaN}}']))
    dataset = await open_dataset(DatasetSpec(str(path)), scratch=tmp_path)
    with pytest.raises(InvalidRows) as caught:
        await validate([("a", dataset)], {})
    assert caught.value.count == 3
    assert [problem.line for problem in caught.value.problems] == [3, 5, 6]
    assert caught.value.problems[0].message.startswith("not JSON: ")
    assert "a row is a JSON object, not a list" in str(caught.value)
    await dataset.close()


async def test_the_first_fifty_and_the_count() -> None:
    dataset = MemoryDataset([{}] * 70)
    with pytest.raises(InvalidRows, match=r"70 rows are invalid[\s\S]* and 20 more") as caught:
        await validate([("a", dataset)], {})
    assert len(caught.value.problems) == 50


async def test_task_indices_are_unique_over_all_datasets() -> None:
    def indexed(*indices: int) -> MemoryDataset:
        return MemoryDataset([{**row(), "_ng_task_index": index} for index in indices])

    far = 1 << 40
    assert (await validate([("a", indexed(0, 9, far)), ("b", indexed(8, far + 1))], {})).indexed == 5
    with pytest.raises(InvalidRows, match="_ng_task_index: 9 stands in an earlier row") as caught:
        await validate([("a", indexed(0, 9, far)), ("b", indexed(9, far))], {})
    assert caught.value.count == 2


async def test_rows_nobody_takes() -> None:
    rows = [row(), {**row(), "agent_ref": {"name": "other"}}, {**row(), "agent_ref": {"name": "mine"}}]
    with pytest.raises(InvalidRows) as caught:
        await validate([("a", MemoryDataset(rows))], {"mine": "a"})
    assert [problem.message for problem in caught.value.problems] == [
        "agent_ref is missing, and environment 'a' takes only rows of its agentRefs (known: mine)",
        "agent_ref.name: no environment claims 'other' (known: mine)",
    ]


async def test_the_environment_has_its_say() -> None:
    def check(entry: str, row: dict[str, Any]) -> str | None:
        return None if "answer" in row else f"{entry}: answer is missing"

    dataset = MemoryDataset([{**row(), "answer": 1}, row()])
    with pytest.raises(InvalidRows, match="rows:2: a: answer is missing"):
        await validate([("a", dataset)], {}, check)


async def test_a_dataset_without_rows_is_an_error() -> None:
    with pytest.raises(InvalidSpec, match="has no rows") as caught:
        await validate([("a", MemoryDataset([]))], {})
    assert caught.value.reason == "DatasetEmpty"


async def test_others_get_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await validate([("a", MemoryDataset([row()] * 20_000))], {})
    task.cancel()
    assert turns >= 9
