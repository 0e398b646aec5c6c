"""Token data of a real vLLM: it is what the engine told, and another implementation gives it the same log-probs.

The engine runs in a container of its own; there is no cluster. An appending chat template and one that rewrites its
history are both tried: the first gives one sample a rollout, the second one a call. Replies whose text the tokenizer
would spell otherwise are provoked: the next prompt continues what was sampled all the same.
"""

from __future__ import annotations

import json
import textwrap
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kubegym.model
from kubegym.agent.model_server import ModelServerClient
from kubegym.core.messages import Done, Message, Turn
from kubegym.core.protocols import ModelClient
from kubegym.core.trajectory import Rollout, Verdict
from kubegym.local.episodes import of_class
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from kubegym.local.runspec import DatasetRef, Entry, ModelRef, RunSpec
from kubegym.local.tasks import GIVEN
from kubegym.model.client import ChatClient
from kubegym.model.server import ModelServer
from kubegym.resources import Environment
from testbed.build import CannotBuild
from testbed.images_engine import engine
from testbed.served import serving
from testbed.vllm_server import in_container, vllm_server

ARITHMETIC = Path(__file__).resolve().parents[2] / "environments" / "arithmetic"
WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"
ROLLOUTS = 500
TURNS = 5
# The number of messages stands before them: each prompt begins otherwise than the one before.
REWRITING = (
    "<|im_start|>system\n{{ messages|length }} messages<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# One forward pass a sample, by transformers: the log-prob of each generated token, given all before it.
FORWARD = textwrap.dedent("""
    import json, sys, torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("/model", dtype=torch.float32).eval()
    torch.set_num_threads(1)
    differences = []
    for line in sys.stdin:
        sample = json.loads(line)
        ids = torch.tensor([sample["token_ids"]])
        with torch.no_grad():
            log_probs = model(ids).logits[0].log_softmax(-1)
        for place, trained in enumerate(sample["loss_mask"]):
            if trained:
                again = log_probs[place - 1, ids[0, place]].item()
                differences.append(abs(again - sample["log_probs"][place]))
    mean = sum(differences) / len(differences)
    print(json.dumps({"tokens": len(differences), "max": max(differences), "mean": mean}))
""")

Call = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]


class Listening(ChatClient):
    """Keeps of every reply what the engine said of its tokens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard: Counter[Call] = Counter()

    async def _chat(self, body: dict[str, Any], timeout: float) -> tuple[Any, int | None]:
        chat, version = await super()._chat(body, timeout)
        choice = chat["choices"][0]
        log_probs = tuple(float32(one["logprob"]) for one in choice["logprobs"]["content"])
        self.heard[tuple(chat["prompt_token_ids"]), tuple(choice["token_ids"]), log_probs] += 1
        return chat, version


def float32(value: float) -> float:
    """As the file has it."""
    return array("f", [value])[0]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    try:
        with vllm_server(WEIGHTS, "--trust-request-chat-template") as found:
            yield found
    except CannotBuild as error:
        # Not a failure in CI: no package index has the wheel it needs.
        pytest.skip(f"{error}; there is no other engine here that tells the ids of a prompt")


def multi_turn(folder: Path) -> Path:
    """Tasks of several model calls: with tools, and over several turns."""
    lines = (ARITHMETIC / "data" / "example.jsonl").read_text().splitlines()
    chosen = [line for line in lines if json.loads(line)["kind"] != "direct"]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(chosen) + "\n")
    return path


def calls_of(sample: dict[str, Any]) -> Iterator[Call]:
    """What a sample says that the engine was asked and said."""
    ids, mask = sample["token_ids"], sample["loss_mask"]
    place = 0
    while place < len(ids):
        first = place
        while place < len(ids) and mask[place]:
            place += 1
        if place > first:
            yield tuple(ids[:first]), tuple(ids[first:place]), tuple(sample["log_probs"][first:place])
        place = max(place, first + 1)


@pytest.mark.parametrize("template", ["appending", "rewriting"])
async def test_they_are_the_engines_and_another_agrees(url: str, template: str, tmp_path: Path) -> None:
    rows = multi_turn(tmp_path)
    tasks = len(rows.read_text().splitlines())
    flags = RunFlags(
        dataset=str(rows),
        base_url=url,
        model="policy",
        rollouts_per_task=-(-ROLLOUTS // tasks),
        temperature=1.0,
        max_output_tokens=64,
        tokens="Samples",
        concurrency=64,
        output=str(tmp_path / "run"),
    )
    spec = resolve([str(ARITHMETIC)], flags)
    if template == "rewriting":
        metadata = {"extra_body": json.dumps({"chat_template": REWRITING})}
        entries = [replace(entry, sampling={**entry.sampling, "metadata": metadata}) for entry in spec.entries]
        spec = replace(spec, entries=tuple(entries))
    client = Listening(url, "policy")
    result = await LocalRun(spec, clients={"policy": client}).run()
    await client.close()
    assert result.manifest.complete
    assert result.manifest.totals.failed == 0

    results = await read_results(tmp_path / "run")
    samples = results.samples.to_pylist()
    assert len({sample["rollout_id"] for sample in samples}) == len(results) >= ROLLOUTS
    calls = sum(len(row["kubegym"]["turns"]) for row in results.rows)
    kept = Counter(call for sample in samples for call in calls_of(sample))
    assert kept == client.heard, "what is kept is not what the engine told"
    if template == "rewriting":
        assert len(samples) == calls
    else:
        assert len(samples) - len(results) < calls / 50, "the template appends: few histories are written anew"
    assert client.splicer is not None
    print(f"\n{template}: {calls} calls, {dict(client.splicer.histories)}, {len(samples) - len(results)} rewritten")
    agree(samples)


def agree(samples: list[dict[str, Any]]) -> None:
    """Another implementation gives the samples the same log-probs."""
    lines = "".join(json.dumps(sample) + "\n" for sample in samples).encode()
    compared = json.loads(in_container(engine(), WEIGHTS, ["python", "-c", FORWARD], stdin=lines).splitlines()[-1])
    print(f"{len(samples)} samples; log-probs: {compared}")
    assert compared["tokens"] == sum(sum(sample["loss_mask"]) for sample in samples)
    assert compared["max"] < 1e-3


class Dictating(Environment):
    """Wants the same sentence again and again, which the policy must say, in whatever tokens it likes."""

    async def respond(self, turn: Turn) -> Message | Done:
        return Done() if turn.index == TURNS - 1 else Message("user", "again")

    def verify(self, rollout: Rollout) -> Verdict:
        return Verdict(1.0)


@pytest.mark.parametrize("through", ["endpoint", "model server"])
async def test_replies_whose_text_becomes_other_tokens_are_continued(url: str, through: str, tmp_path: Path) -> None:
    # A policy held to one text says it in tokens that the tokenizer would not choose.
    extra = {"structured_outputs": {"choice": ["What is the answer to the question?"]}}
    row = {"responses_create_params": {"input": "begin", "metadata": {"extra_body": json.dumps(extra)}}}
    listening = Listening(url, "policy")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(listening.close)
        client: ModelClient = listening
        if through == "model server":
            server = ModelServer([listening], model="policy", probe=False)
            client = ModelServerClient([await stack.enter_async_context(serving(server))], "policy")
            stack.push_async_callback(client.close)
        work = LocalRun(
            RunSpec(
                name="dictating",
                entries=(
                    Entry(
                        name="dictating",
                        environment=f"{__name__}:Dictating",
                        models={"policy": ModelRef("endpoint", "policy")},
                        dataset=DatasetRef(GIVEN),
                        rollouts_per_task=50,
                        sampling={"temperature": 2.0},
                    ),
                ),
                output=str(tmp_path / "run"),
                tokens="Samples",
            ),
            classes={"dictating": of_class(Dictating)},
            clients={"policy": client},
            rows={"dictating": [row]},
        )
        result = await work.run()
    assert result.manifest.totals.scored == 50
    results = await read_results(tmp_path / "run")
    samples = results.samples.to_pylist()
    histories = listening.splicer.histories if listening.splicer is not None else Counter()
    print(f"\nthrough the {through}: {50 * TURNS} calls, {dict(histories)}, {len(samples) - 50} rewritten")
    assert histories["spliced"] > 50, "what this test is about did not happen"
    assert len(samples) == 50, "one sample a rollout"
    # Their log-probs are those of the choice that was left, which a plain forward pass does not know.
    assert Counter(call for sample in samples for call in calls_of(sample)) == listening.heard
