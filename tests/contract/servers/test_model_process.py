"""``run_model_server`` as a process: it says where it listens, and ends with 0 at SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

import pytest

pytestmark = pytest.mark.contract

PROGRAM = """
from kubegym.model.engine_client import EngineClient
from kubegym.model.server import run_model_server
from kubegym.model.simulated import SimulatedEngine
run_model_server(
    [EngineClient(SimulatedEngine())], "127.0.0.1", 0, on_listening=lambda url: print(url, flush=True), grace_seconds=5
)
print("over", flush=True)
"""


def test_from_start_to_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            request = urllib.request.Request(f"{url}/v1/responses", b'{"input": "q"}')
            with urllib.request.urlopen(request, timeout=120) as reply:
                assert reply.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == "over\n"
            assert process.wait(120) == 0
        finally:
            process.kill()
