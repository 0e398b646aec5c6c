"""A real vLLM takes other weights while it serves; what does not prove serves nobody. There is no cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import kubegym.model
from kubegym.model.weights import CANARY_FILE
from kubegym.model.weights.canary import distance
from kubegym.model.weights.making import make_canary
from testbed.adapters import RANK, adapter
from testbed.build import CannotBuild
from testbed.forward import log_probs, tensors, write_tensors
from testbed.updated_replicas import Load, Orders, answers_of, controlled
from testbed.vllm_server import vllm_servers

WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"
FIRST = Path(__file__).parents[1] / "models" / "ckpt-1"
CALLERS = 16


@contextmanager
def engines(first: Path, count: int, *beside: Path, arguments: Sequence[str] = ()) -> Iterator[list[str]]:
    """Several vLLMs with their control routes, which see the folders ``beside``, too."""
    for folder in beside:
        folder.chmod(0o755)  # they run as nobody
    with ExitStack() as stack:
        try:
            control = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
            seen = [first, *beside]
            urls = stack.enter_context(vllm_servers(first, count, *arguments, variables=control, beside=seen))
        except CannotBuild as error:
            # Not a failure in CI: no package index has the wheel it needs.
            pytest.skip(f"{error}; the embedded and the simulated engine pass their own tests of this")
        yield urls


async def test_under_load_no_request_fails_and_none_is_told_another_version(tmp_path: Path) -> None:
    with engines(FIRST, 2, WEIGHTS, tmp_path) as urls:
        await updated_under_load(urls, tmp_path)


async def updated_under_load(engines: list[str], folder: Path) -> None:
    answers = dict(enumerate(await answers_of([FIRST, WEIGHTS]), start=1))
    assert len(answers[1]) > 10, "questions on which the checkpoints differ"
    made = await make_canary(engines[0], ["The quick brown fox", "What is 7+18? Answer with a number."], 0.02)
    assert distance(made.log_probs, [log_probs(FIRST, ids) for ids in made.sequences]) < 1e-3
    async with controlled(engines, FIRST) as (urls, controls):
        orders = Orders()
        for control in controls:
            await orders.ready(control)
        async with Load(urls, answers, CALLERS) as load:
            await load.until(1, 100)
            for control in controls:
                state = await orders.exchange(control, WEIGHTS, 2)
                assert (state["policyVersion"], state["weights"]["failure"]) == (2, None)
                assert state["weights"]["canary"] < 1e-3, "another implementation's log-probs"
            await load.until(2, 100)
            broken = await exchanged_badly(orders, controls[0], folder)
        print(f"\n{load.seen.answered} answered, {sum(load.seen.failed.values())} failed, {len(load.seen.wrong)} wrong")
        assert not load.seen.failed, load.seen.failed
        assert not load.seen.wrong, load.seen.wrong[:5]
        assert set(load.seen.answered) == {1, 2}
        assert broken == {"empty": "WeightsNotFound", "cut": "WeightsCorrupt", "another": "WeightsCorrupt"}
        for control in controls:
            assert (await orders.call(b"POST", f"{control}/canary"))[1]["proven"] is True
        await orders.close()


async def exchanged_badly(orders: Orders, control: str, folder: Path) -> dict[str, str]:
    """Weights that must not be served; why they were not."""
    empty, cut, another = folder / "empty", folder / "cut", folder / "another"
    empty.mkdir()
    shutil.copytree(WEIGHTS, cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(FIRST, another)
    (another / CANARY_FILE).write_bytes((WEIGHTS / CANARY_FILE).read_bytes())
    reasons = {}
    for version, path in enumerate((empty, cut, another), start=3):
        state = await orders.exchange(control, path, version)
        assert (state["policyVersion"], state["ready"]) == (2, True), state
        failure = state["weights"]["failure"]
        reasons[path.name] = failure["reason"]
    assert "log-probs are others" in failure["message"], "the last one is whole, and loads"
    return reasons


def tied(folder: Path, weights: Path) -> Path:
    """The same model, its head tied to its embedding: vLLM packs that on CPUs, where a reload does not reach it."""
    shutil.copytree(weights, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    arrays = tensors(folder / "model.safetensors")
    assert (arrays.pop("lm_head.weight") == arrays["model.embed_tokens.weight"]).all()
    write_tensors(folder / "model.safetensors", arrays)
    return folder


async def test_a_tied_head_that_keeps_old_weights_serves_nobody(tmp_path: Path) -> None:
    first, second = tied(tmp_path / "first", FIRST), tied(tmp_path / "second", WEIGHTS)
    answers = dict(enumerate(await answers_of([FIRST]), start=1))
    with engines(first, 1, tmp_path) as urls:
        async with controlled(urls, first) as (servers, (control,)):
            orders = Orders()
            await orders.ready(control)
            async with Load(servers, answers, 4) as load:
                await load.until(1, 20)
                state = await orders.exchange(control, second, 2)
                failure = state["weights"]["failure"]
                assert failure["reason"] == "WeightsCorrupt"
                assert "log-probs are others" in failure["message"], "vLLM said 200"
                assert (state["policyVersion"], state["ready"]) == (1, True)
                await load.until(1, load.seen.answered[1] + 20)
            assert not load.seen.failed
            assert not load.seen.wrong, load.seen.wrong[:5]
            await orders.close()


async def test_adapters_take_turns_under_load_and_a_stale_one_serves_nobody(tmp_path: Path) -> None:
    """What each answers is known from weights with the adapter added in, by another engine."""
    folders = [tmp_path / "a", tmp_path / "b"]
    added = [adapter(folder, FIRST, seed) for seed, folder in enumerate(folders, start=1)]
    answers = dict(enumerate(await answers_of([FIRST, *added]), start=1))
    assert len(answers[1]) > 10, "questions on which they all differ"
    stale = tmp_path / "stale"
    shutil.copytree(folders[0], stale)
    (stale / CANARY_FILE).write_bytes((folders[1] / CANARY_FILE).read_bytes())
    with engines(FIRST, 1, tmp_path, arguments=("--enable-lora", "--max-lora-rank", str(RANK))) as urls:
        async with controlled(urls, FIRST) as (servers, (control,)):
            orders = Orders()
            await orders.ready(control)
            async with Load(servers, answers, 8) as load:
                await load.until(1, 40)
                for version, folder in enumerate(folders, start=2):
                    state = await orders.exchange(control, folder, version, kind="Adapter")
                    assert (state["policyVersion"], state["weights"]["failure"]) == (version, None)
                    await load.until(version, 40)
                state = await orders.exchange(control, stale, 4, kind="Adapter")
                failure = state["weights"]["failure"]
                assert failure["reason"] == "WeightsCorrupt"
                assert "log-probs are others" in failure["message"]
                assert (state["policyVersion"], state["ready"]) == (3, True)
                await load.until(3, load.seen.answered[3] + 40)
            print(f"\n{load.seen.answered} answered, {len(load.seen.failed)} failed, {len(load.seen.wrong)} wrong")
            assert not load.seen.failed
            assert not load.seen.wrong, load.seen.wrong[:5]
            await orders.close()
