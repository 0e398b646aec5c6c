"""Rows that a model cannot do, and a model server before it: nothing runs, however the run is composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubegym.core.errors import ModelUnsuitable
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.runspec import RunSpec
from kubegym.local.split import split_servers
from testbed.pods import serve_process

pytestmark = pytest.mark.contract

ENVIRONMENTS = Path(__file__).resolve().parents[2] / "environments"
REFUSALS = [
    pytest.param("visual", "the model tiny sees no images", id="images"),
    pytest.param("haystack", "needs a context of .* tokens, and the model tiny has 512", id="context"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """A text model with a context of 512 tokens."""
    with serve_process("model", "--engine", "embedded") as url:
        yield url


@pytest.fixture(scope="module")
def server(engine: str) -> Iterator[str]:
    """A model server before it."""
    with serve_process("model", "--upstream", engine, "--model", "tiny") as url:
        yield url


async def refused(spec: RunSpec, output: Path, words: str) -> None:
    with pytest.raises(ModelUnsuitable, match=words):
        await LocalRun(replace(spec, output=str(output))).run()
    assert not list(output.glob("plan*"))  # noqa: ASYNC240


@pytest.mark.parametrize(("name", "words"), REFUSALS)
@pytest.mark.parametrize("how", ["base-url", "model-server", "unnamed"])
async def test_behind_a_model_server(how: str, name: str, words: str, server: str, tmp_path: Path) -> None:
    flags = {
        "base-url": RunFlags(base_url=f"{server}/v1", model="tiny"),
        "model-server": RunFlags(model_server=server, model="tiny"),
        "unnamed": RunFlags(model_server=server),
    }[how]
    expected = words if how != "unnamed" else words.replace("tiny", "")
    await refused(resolve([str(ENVIRONMENTS / name)], flags), tmp_path / "out", expected)


@pytest.mark.parametrize(("name", "words"), REFUSALS)
async def test_behind_the_agent_of_a_split_run(name: str, words: str, tmp_path: Path) -> None:
    async with split_servers(resolve([str(ENVIRONMENTS / name)], RunFlags(engine="embedded"))) as spec:
        await refused(spec, tmp_path / "out", words)
