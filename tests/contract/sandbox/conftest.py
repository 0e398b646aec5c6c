"""Every kind of sandbox: on this machine, and in a pod's server asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubegym.sandbox import LocalSandbox, PodSandbox, Sandbox, SandboxSettings
from kubegym.sandbox.check import examine
from kubegym.sandbox.server import SandboxService
from testbed.required import unavailable
from testbed.served import serving


@pytest.fixture(scope="session", autouse=True)
def _walls() -> None:
    missing = [found for found in examine().findings if found.needed and not found.holds]
    if missing:
        unavailable(f"no sandbox here: {'; '.join(found.text for found in missing)}")


@pytest.fixture(params=["local", "pod"])
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sandbox]:
    local = LocalSandbox(SandboxSettings(places=2))
    if request.param == "local":
        yield local
        await local.close()
        return
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with serving(SandboxService(local, str(token)).app()) as url:
        pods = PodSandbox(url, str(token))
        yield pods
        await pods.close()
