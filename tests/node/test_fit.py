"""What a real vLLM with a text model says to rows that it cannot do: nothing runs.

The engine runs in a container of its own; there is no cluster. Asked are its endpoint, and a model server before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import kubegym.model
from kubegym.core.errors import ModelUnsuitable
from kubegym.local.localrun import LocalRun
from kubegym.local.resolve import RunFlags, resolve
from kubegym.model.server import ModelServer
from testbed.build import CannotBuild
from testbed.served import serving
from testbed.vllm_server import vllm_server

ENVIRONMENTS = Path(__file__).resolve().parents[2] / "environments"
WEIGHTS = Path(kubegym.model.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    try:
        with vllm_server(WEIGHTS) as url:
            yield url
    except CannotBuild as problem:
        # Not a failure in CI: no package index has the wheel it needs.
        pytest.skip(f"{problem}; tests/contract/test_fit.py asks the embedded engine in its place")


@pytest.fixture(params=["endpoint", "model server", "model server as an endpoint"])
def through(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def refused(name: str, vllm: str, through: str, output: Path) -> str:
    async with AsyncExitStack() as stack:
        flags = RunFlags(base_url=vllm, model="policy", output=str(output))
        if through != "endpoint":
            url = await stack.enter_async_context(serving(ModelServer([vllm], model="policy")))
            server = {"base_url": f"{url}/v1"} if through.endswith("endpoint") else {"model_server": url}
            flags = RunFlags(**server, model="policy", output=str(output))
        with pytest.raises(ModelUnsuitable) as caught:
            await LocalRun(resolve([str(ENVIRONMENTS / name)], flags)).run()
    assert not list(output.glob("plan*"))  # noqa: ASYNC240
    return caught.value.message


async def test_a_text_model_is_refused_before_a_run_with_images(vllm: str, through: str, tmp_path: Path) -> None:
    message = await refused("visual", vllm, through, tmp_path / "out")
    assert "the model policy sees no images" in message
    assert "answered 400" in message


async def test_a_context_that_does_not_fit_is_refused_before_a_run(vllm: str, through: str, tmp_path: Path) -> None:
    message = await refused("haystack", vllm, through, tmp_path / "out")
    assert "tokens, and the model policy has 1,024" in message
