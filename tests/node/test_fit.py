"""What a real vLLM with a text model says to rows that it cannot do: nothing runs.

The engine runs in a container of its own; there is no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kubegym.model
from kubegym.core.errors import ModelUnsuitable
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from testbed.build import CannotBuild
from testbed.vllm_server import vllm_server

pytestmark = pytest.mark.node

ENVIRONMENTS = Path(__file__).resolve().parents[2] / "environments"
WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    try:
        with vllm_server(WEIGHTS) as url:
            yield url
    except CannotBuild as problem:
        pytest.skip(str(problem))


def planned(output: Path) -> list[Path]:
    return list(output.glob("plan*"))


async def refused(name: str, url: str, output: Path) -> str:
    flags = RunFlags(base_url=url, model="policy", output=str(output))
    with pytest.raises(ModelUnsuitable) as caught:
        await LocalRun(resolve([str(ENVIRONMENTS / name)], flags)).run()
    assert not planned(output)
    return caught.value.message


async def test_a_text_model_is_refused_before_a_run_with_images(vllm: str, tmp_path: Path) -> None:
    message = await refused("visual", vllm, tmp_path / "out")
    assert "the model policy sees no images" in message
    assert "answered 400" in message


async def test_a_context_that_does_not_fit_is_refused_before_a_run(vllm: str, tmp_path: Path) -> None:
    assert "tokens, and the model policy has 1,024" in await refused("haystack", vllm, tmp_path / "out")
