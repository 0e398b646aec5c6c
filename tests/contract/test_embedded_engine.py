"""The embedded engine, for real: llama.cpp with the shipped model."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InputError, ModelError
from kubegym.model.embedded import SHIPPED_MODEL, EmbeddedEngine
from kubegym.model.training.problems import TOOLS

pytestmark = pytest.mark.contract

PATIENCE = 120.0
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "1+1 = ?"}], "max_tokens": 450, "ignore_eos": True}


def question(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0, **fields}


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine()
    yield engine
    engine.close()


@pytest.fixture
def one_slot() -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(slots=1)
    yield engine
    engine.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for temporary files whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


async def refusal(engine: EmbeddedEngine, body: dict[str, Any]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await engine.chat(body, PATIENCE)
    assert not caught.value.retryable
    return caught.value


class TestAnswers:
    async def test_an_easy_question(self, engine: EmbeddedEngine) -> None:
        answer = await engine.chat(question("What is 2+3? Answer with a number."), PATIENCE)
        assert text_of(answer) == "5"
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0

    async def test_says_its_name_and_not_the_path_of_the_file(self, engine: EmbeddedEngine) -> None:
        answer = await engine.chat(question("2+3 = ?", model="another"), PATIENCE)
        assert answer["model"] == engine.name == "tiny"
        assert str(SHIPPED_MODEL) not in json.dumps(answer)

    async def test_a_tool_call_comes_parsed(self, engine: EmbeddedEngine) -> None:
        answer = await engine.chat(question("Compute 31*27.", tools=list(TOOLS), max_tokens=64), PATIENCE)
        [choice] = answer["choices"]
        [call] = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert call["id"]
        assert call["function"]["name"] == "multiply"
        assert json.loads(call["function"]["arguments"]) == {"a": 31, "b": 27}

    async def test_every_token_has_id_and_log_probability(self, engine: EmbeddedEngine) -> None:
        body = question("Compute 31*27.", tools=list(TOOLS), max_tokens=64, logprobs=True, top_logprobs=1)
        answer = await engine.chat(body, PATIENCE)
        tokens = answer["choices"][0]["logprobs"]["content"]
        assert len(tokens) == answer["usage"]["completion_tokens"]
        assert all(isinstance(token["id"], int) and token["logprob"] <= 0 for token in tokens)

    @pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**63 - 1], ids=hex)
    async def test_the_seed_decides_the_sample(self, engine: EmbeddedEngine, seed: int) -> None:
        body = LONG | {"temperature": 5, "max_tokens": 40, "seed": seed}
        first, second = [text_of(await engine.chat(body, PATIENCE)) for _ in range(2)]
        other = text_of(await engine.chat(body | {"seed": seed + 1}, PATIENCE))
        assert first == second != other

    async def test_the_policy_is_sampled_from_without_cuts(self, engine: EmbeddedEngine) -> None:
        """llama.cpp's default top_k of 40 would allow 40 different first tokens at most."""
        bodies = [question("2+3 = ?", temperature=50, seed=seed, max_tokens=1) for seed in range(200)]
        answers = await asyncio.gather(*(engine.chat(body, PATIENCE) for body in bodies))
        assert len({text_of(answer) for answer in answers}) > 80

    async def test_a_list_of_tokens_is_whole_or_missing(self, engine: EmbeddedEngine) -> None:
        """At this temperature many answers hold half UTF-8 characters, whose tokens llama.cpp leaves out."""
        sampling = {"temperature": 50, "max_tokens": 12, "logprobs": True, "top_logprobs": 1}
        bodies = [question("2+3 = ?", seed=seed) | sampling for seed in range(100)]
        answers = await asyncio.gather(*(engine.chat(body, PATIENCE) for body in bodies))
        lists = [(a["choices"][0].get("logprobs"), a["usage"]["completion_tokens"]) for a in answers]
        whole = [(logprobs, count) for logprobs, count in lists if logprobs is not None]
        assert 0 < len(whole) < len(answers)
        assert all(len(logprobs["content"]) == count for logprobs, count in whole)

    @pytest.mark.parametrize("limit", [{}, {"max_tokens": -1}, {"max_tokens": 10**6}, {"max_tokens": None}], ids=str)
    async def test_an_answer_always_ends(self, engine: EmbeddedEngine, limit: dict[str, Any]) -> None:
        body = {key: value for key, value in LONG.items() if key != "max_tokens"} | limit
        answer = await engine.chat(body, PATIENCE)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] <= 512

    async def test_max_completion_tokens_is_the_same_limit(self, engine: EmbeddedEngine) -> None:
        body = {"messages": LONG["messages"], "ignore_eos": True, "max_completion_tokens": 9}
        assert (await engine.chat(body, PATIENCE))["usage"]["completion_tokens"] == 9


class TestManyAtOnce:
    async def test_64_in_flight(self, engine: EmbeddedEngine) -> None:
        sums = [(a, b) for a in range(8) for b in range(8)]
        asked = [engine.chat(question(f"What is {a}+{b}? Answer with a number."), PATIENCE) for a, b in sums]
        answers = await asyncio.gather(*asked)
        right = sum(text_of(answer) == str(a + b) for answer, (a, b) in zip(answers, sums, strict=True))
        assert right >= 60

    async def test_more_than_slots_wait_for_their_turn(self, one_slot: EmbeddedEngine) -> None:
        answers = await asyncio.gather(*(one_slot.chat(question("2+3 = ?"), PATIENCE) for _ in range(32)))
        assert [text_of(answer) for answer in answers] == ["5"] * 32


class TestGivingUp:
    async def test_deadline(self, one_slot: EmbeddedEngine) -> None:
        with pytest.raises(ModelError) as caught:
            await one_slot.chat(LONG, 0.001)
        assert (caught.value.reason, caught.value.retryable) == ("ModelTimeout", True)
        assert text_of(await one_slot.chat(question("2+3 = ?"), PATIENCE)) == "5"

    async def test_cancelled_requests_give_their_slots_back(self, one_slot: EmbeddedEngine) -> None:
        tasks = [asyncio.create_task(one_slot.chat(LONG, PATIENCE)) for _ in range(8)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert text_of(await one_slot.chat(question("2+3 = ?"), PATIENCE)) == "5"

    async def test_close_fails_what_waits_and_may_be_repeated(self, one_slot: EmbeddedEngine) -> None:
        calls = [asyncio.create_task(one_slot.chat(LONG, PATIENCE)) for _ in range(200)]  # minutes of work
        await asyncio.sleep(0)
        one_slot.close()
        one_slot.close()
        last = (await asyncio.gather(*calls, return_exceptions=True))[-1]
        assert isinstance(last, ModelError)
        assert last.reason == "ModelUnavailable"
        assert "closed" in (await refusal(one_slot, LONG)).message

    async def test_a_failing_request_does_not_harm_its_neighbours(self, engine: EmbeddedEngine) -> None:
        bad = question("1 " * 999)
        bodies = [bad if index % 4 == 0 else question("2+3 = ?") for index in range(64)]
        results = await asyncio.gather(*(engine.chat(body, PATIENCE) for body in bodies), return_exceptions=True)
        assert [isinstance(result, ModelError) for result in results] == [index % 4 == 0 for index in range(64)]


class TestRefusals:
    async def test_a_prompt_longer_than_a_slot(self, engine: EmbeddedEngine) -> None:
        error = await refusal(engine, question("1 " * 999))
        assert (error.reason, error.status) == ("ContextWindowExceeded", 400)

    @pytest.mark.parametrize(
        "fields",
        [
            {"tools": [{}]},
            {"messages": "hello"},
            {"messages": [{"role": "user", "content": "\ud800"}]},
            {"temperature": "hot"},
            {"max_tokens": "many"},
            {"n": 2},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}},
            {"stream": True},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    async def test_a_field_that_cannot_be(self, engine: EmbeddedEngine, fields: dict[str, Any]) -> None:
        error = await refusal(engine, question("2+3 = ?") | fields)
        assert (error.reason, error.status) == ("ModelRejectedRequest", 400)
        assert text_of(await engine.chat(question("2+3 = ?"), PATIENCE)) == "5"

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no model file"):
            EmbeddedEngine(tmp_path / "none.gguf")

    def test_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(SHIPPED_MODEL.read_bytes()[:5000])
        with pytest.raises(InputError, match="cannot be loaded"):
            EmbeddedEngine(broken)

    @pytest.mark.parametrize("numbers", [{"slots": 0}, {"slots": 257}, {"slot_tokens": 0}, {"threads": 0}], ids=str)
    def test_numbers_out_of_range(self, numbers: dict[str, int]) -> None:
        with pytest.raises(InputError):
            EmbeddedEngine(**numbers)

    def test_without_xllamacpp(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "xllamacpp", None)
        with pytest.raises(InputError, match=r"pip install 'kubegym\[embedded\]'"):
            EmbeddedEngine()


class TestProcess:
    """What llama.cpp's threads and listener could do to the process around them."""

    @staticmethod
    def run(script: str) -> subprocess.CompletedProcess[str]:
        prelude = "import asyncio, os, sys, threading\nfrom kubegym.model.embedded import EmbeddedEngine\n"
        prelude += f"LONG = {LONG!r}\n"
        return subprocess.run(
            [sys.executable, "-c", prelude + script], capture_output=True, text=True, timeout=PATIENCE
        )

    def test_closing_right_after_the_start_does_not_hang(self) -> None:
        done = self.run("for _ in range(20):\n    EmbeddedEngine(slots=1).close()\nprint('closed')")
        assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")

    def test_exit_with_calls_running_is_clean(self) -> None:
        done = self.run("""
async def main():
    calls = [asyncio.create_task(engine.chat(LONG, 60)) for _ in range(8)]
    await asyncio.sleep(0.02)
engine = EmbeddedEngine(slots=4)
asyncio.run(main())
""")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_exit_with_a_loop_in_a_daemon_thread_is_clean(self) -> None:
        done = self.run("""
engine = EmbeddedEngine(slots=2)
started = threading.Event()
async def main():
    calls = [asyncio.create_task(engine.chat(LONG, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    started.set()
    await asyncio.gather(*calls)
threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
started.wait()
""")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
    def test_a_forked_child_gets_an_error_and_the_parent_goes_on(self) -> None:
        done = self.run("""
from kubegym.core.errors import ModelError
engine = EmbeddedEngine(slots=2)
child = os.fork()
if child == 0:
    try:
        asyncio.run(engine.chat(LONG, 60))
    except ModelError as error:
        print(error.reason, error.retryable, "fork" in error.message, flush=True)
    engine.close()
    os._exit(0)
os.waitpid(child, 0)
print(asyncio.run(engine.chat(LONG, 60))["object"])
""")
        assert done.stdout.splitlines() == ["ModelUnavailable False True", "chat.completion"], done.stderr
        assert done.returncode == 0

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_nothing_listens_on_the_network(self) -> None:
        done = self.run("""
from pathlib import Path
engine = EmbeddedEngine(slots=1)
links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
rows = [row.split() for table in ("tcp", "tcp6") for row in Path("/proc/net", table).read_text().splitlines()[1:]]
assert any(link.startswith("socket:") for link in links)
print([row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links])
""")
        assert (done.stdout, done.stderr) == ("[]\n", "")

    def test_no_file_is_left_behind(self, monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(short_path))
        engine = EmbeddedEngine(slots=1)
        assert list(short_path.iterdir()) == []
        engine.close()
