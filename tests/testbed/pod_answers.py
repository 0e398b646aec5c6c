"""A server in the place of fake pods: it says that it is ready, and that a run has begun."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORTS = (8000, 8001, 8002, 9090)
PROGRESS = {
    "planDigest": "0" * 64,
    "shards": {"total": 4, "committed": 1, "active": 2},
    "rollouts": {"expected": 64, "scored": 16, "unscored": 0, "failed": 0},
    "failures": {},
    "rewardMean": "0.50",
    "tokens": {"input": 100, "output": 100},
    "throughput": "1.0",
}


@contextmanager
def pod_answers(ports: Sequence[int] = PORTS) -> Iterator[str]:
    """Listen on an address of this machine that is ours alone, on the ports of pods; yields the address."""
    with ExitStack() as stack:
        address, servers = _listen(ports)
        for server in servers:
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address


def _listen(ports: Sequence[int]) -> tuple[str, list[ThreadingHTTPServer]]:
    """All of 127/8 is this machine; another test may have taken the same place of it."""
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        servers: list[ThreadingHTTPServer] = []
        try:
            for port in ports:
                servers.append(_Server((address, port), _Answers))
            return address, servers
        except OSError:
            for server in servers:
                server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def server_bind(self) -> None:
        socket.socket.bind(self.socket, self.server_address)  # without a look-up of the host's name
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps(PROGRESS if self.path.startswith("/progress") else {"status": "ready"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
