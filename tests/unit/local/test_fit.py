"""What rows need of a model is asked before the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InvalidRows, ModelUnsuitable
from kubegym.local.localrun import LocalRun
from kubegym.local.python import as_client
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.results import read_results
from kubegym.model.endpoint import context_window

pytestmark = pytest.mark.unit

APP = """
from kubegym import Environment, Image, Verdict, tool

class Picture(Environment):
    images = IMAGES

    @tool
    def look(self) -> Image:
        return Image("data:image/png;base64,AA==")

    def verify(self, rollout):
        return Verdict(1.0)
"""
SEEN = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}


def environment(folder: Path, *rows: dict[str, Any], images: bool = False) -> str:
    (folder / "data").mkdir(parents=True)
    (folder / "app.py").write_text(APP.replace("IMAGES", str(images)))
    (folder / "data" / "example.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def row(said: Any = "?", **fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": said if isinstance(said, str) else [said]}, **fields}


async def go(folder: str, engine: str, output: Path) -> Any:
    flags = RunFlags(engine=engine, output=str(output), max_steps=2, max_output_tokens=8)  # type: ignore[arg-type]
    return await LocalRun(resolve([folder], flags)).run()


@pytest.mark.parametrize("images", [False, True])
async def test_a_model_without_eyes_is_refused_before_anything_runs(tmp_path: Path, images: bool) -> None:
    folder = environment(tmp_path / "picture", *([row()] if images else [row(), row(SEEN)]), images=images)
    where = "what its tools answer" if images else "example.jsonl:2"
    with pytest.raises(ModelUnsuitable, match=rf"the model tiny sees no images, and there are some in .*{where}"):
        await go(folder, "embedded", tmp_path / "out")
    assert not list((tmp_path / "out").glob("plan*"))
    result = await go(folder, "simulated", tmp_path / "out")
    assert result.manifest.complete


async def test_text_is_not_asked_for_images(tmp_path: Path) -> None:
    folder = environment(tmp_path / "picture", row('"input_image"'))
    assert (await go(folder, "embedded", tmp_path / "out")).manifest.complete


async def test_a_context_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    rows = [row(), row(context_tokens=512), row(context_tokens=4096), row(context_tokens=1000)]
    folder = environment(tmp_path / "long", *rows)
    with pytest.raises(
        ModelUnsuitable, match=r"example.jsonl:3 needs a context of 4,096 tokens, and the model tiny has 512"
    ):
        await go(folder, "embedded", tmp_path / "out")
    assert (await go(environment(tmp_path / "short", *rows[:2]), "embedded", tmp_path / "short-out")).manifest.complete
    assert (await go(folder, "simulated", tmp_path / "out")).manifest.complete  # tells no window


@pytest.mark.parametrize("tokens", [0, -1, "many", 1.5, True])
async def test_a_context_that_is_no_number_is_a_bad_row(tmp_path: Path, tokens: Any) -> None:
    folder = environment(tmp_path / "long", row(context_tokens=tokens))
    with pytest.raises(InvalidRows, match="context_tokens: must be an integer"):
        await go(folder, "simulated", tmp_path / "out")


async def test_models_given_in_python_are_not_asked(tmp_path: Path) -> None:
    asked: list[Any] = []

    def model(request: dict[str, Any]) -> str:
        asked.append(request["messages"])
        return "."

    folder = environment(tmp_path / "picture", row(SEEN))
    client = as_client(model)
    spec = resolve([folder], RunFlags(output=str(tmp_path / "out")))
    result = await LocalRun(spec, clients={"policy": client}).run()
    assert (result.manifest.complete, len(asked)) == (True, 1)
    assert [one["reward"] for one in (await read_results(tmp_path / "out")).rows] == [1.0]


def test_a_model_list_may_tell_the_window() -> None:
    listed = {"data": [{"id": "a", "max_model_len": 10}, {"id": "m", "max_model_len": 4096}, {"id": "n"}]}
    body = json.dumps(listed).encode()
    assert [context_window(body, name) for name in ("m", "n", "x")] == [4096, None, None]
    assert context_window(b"<html>", "m") is None
