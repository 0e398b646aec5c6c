"""Trouble of the sandbox itself is an error that may be tried again, never an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubegym.sandbox import LocalSandbox, PodSandbox, SandboxSettings, proc
from kubegym.sandbox.check import Wall, examine
from kubegym.sandbox.errors import SandboxBusy, SandboxError, SandboxLost, SandboxUnavailable
from kubegym.sandbox.server import SandboxService
from kubegym.sandbox.shared import walls
from testbed.served import serving


async def running(sandbox: LocalSandbox) -> int:
    """The fork server's process id."""
    await sandbox.start()
    assert sandbox._server is not None
    return sandbox._server._process.pid


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user may pass through, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something, generously."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.01)


async def test_a_killed_warden_is_lost_and_replaced() -> None:
    sandbox = LocalSandbox(SandboxSettings(places=1))
    try:
        server = await running(sandbox)
        program = asyncio.create_task(sandbox.run("import time; time.sleep(60)"))
        await until(lambda: len(proc.descendants(server)) == 2)
        warden, child = proc.descendants(server)
        os.kill(warden, signal.SIGKILL)
        with pytest.raises(SandboxLost) as raised:
            await program
        assert raised.value.retryable
        assert (await sandbox.run("print(1)")).stdout == "1\n"
        await until(lambda: not proc.state(child))  # it dies with its warden, and is taken away
    finally:
        await sandbox.close()


async def test_a_killed_fork_server_is_started_again() -> None:
    sandbox = LocalSandbox(SandboxSettings(places=1))
    try:
        server = await running(sandbox)
        os.kill(server, signal.SIGKILL)
        await until(lambda: proc.state(server) == "Z")
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    finally:
        await sandbox.close()


async def test_a_cancelled_program_ends() -> None:
    sandbox = LocalSandbox(SandboxSettings(places=1))
    try:
        server = await running(sandbox)
        program = asyncio.create_task(sandbox.run("import time; time.sleep(600)"))
        await until(lambda: len(proc.descendants(server)) == 2)
        program.cancel()
        with pytest.raises(asyncio.CancelledError):
            await program
        await until(lambda: not proc.descendants(server))
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    finally:
        await sandbox.close()


async def test_who_waits_too_long_for_a_place_is_told() -> None:
    sandbox = LocalSandbox(SandboxSettings(places=1, queue_seconds=0.05))
    try:
        first = asyncio.create_task(sandbox.run("import time; time.sleep(2)"))
        await asyncio.sleep(0)
        with pytest.raises(SandboxBusy):
            await sandbox.run("1")
        assert (await first).ok
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    finally:
        await sandbox.close()


async def test_nothing_is_left_of_a_closed_sandbox(reachable: Path) -> None:
    sandbox = LocalSandbox(SandboxSettings(places=2, folder=str(reachable)))
    server = await running(sandbox)
    async with sandbox.session() as session:
        await session.run("open('left', 'w').write('x')")
        await sandbox.run("open('left', 'w').write('x')")
    await sandbox.close()
    assert os.listdir(reachable) == []
    assert proc.state(server) == ""


async def test_a_library_that_is_not_there() -> None:
    sandbox = LocalSandbox(SandboxSettings(libraries=("no_such_library",)))
    with pytest.raises(SandboxUnavailable, match="no_such_library"):
        await sandbox.run("1")
    await sandbox.close()


async def test_missing_walls_have_to_be_named() -> None:
    assert walls("landlock, listener") == {Wall.LANDLOCK, Wall.LISTENER}
    with pytest.raises(SandboxUnavailable, match="landlock, seccomp, listener"):
        walls("landlok")
    assert examine().walls == set(Wall)


async def test_pods_that_are_not_there(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    pods = PodSandbox("http://127.0.0.1:9", str(token))
    with pytest.raises(SandboxLost) as raised:
        await pods.run("1")
    assert raised.value.retryable
    await pods.close()


async def test_a_pod_lets_nobody_in_without_its_token(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("secret")
    (tmp_path / "wrong").write_text("guess")
    local = LocalSandbox(SandboxSettings(places=1, libraries=()))
    async with serving(SandboxService(local, str(tmp_path / "right")).app()) as url:
        pods = PodSandbox(url, str(tmp_path / "wrong"))
        with pytest.raises(SandboxError, match="token") as raised:
            await pods.run("1")
        assert not raised.value.retryable
        async with asyncio.timeout(120):
            with pytest.raises(SandboxError, match="token"):
                async with pods.session():
                    pass
        await pods.close()
