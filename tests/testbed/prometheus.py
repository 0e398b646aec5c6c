"""The real Prometheus (Debian's package) over what a test exports; it asks every 15 seconds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from testbed.images_packages import require
from testbed.k8s.process import Program, answers, free_ports, until


@contextmanager
def prometheus(registry: CollectorRegistry, folder: Path) -> Iterator[str]:
    """Its URL, while the block runs. Labels are the exporter's, as our page on monitoring asks for.

    Args:
        registry: asked at every scrape.
        folder: an empty one, for its data and its log.

    Raises:
        testbed.build.CannotBuild: it is not there and cannot be installed.
    """
    require({"prometheus": "prometheus"})
    program = shutil.which("prometheus")
    assert program is not None, "it was installed just now"
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    running = Program("prometheus", [program, *flags, f"--web.listen-address=127.0.0.1:{port}"], folder)
    with _exported(registry) as target:
        job = {"job_name": "test", "honor_labels": True, "static_configs": [{"targets": [target]}]}
        # What is not answered in time counts as gone, and nobody may wait longer than until the next time.
        often = {"scrape_interval": "15s", "scrape_timeout": "15s"}
        configuration = {"global": often, "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        try:
            running.start()
            until(lambda: answers(f"{url}/-/ready"), "Prometheus is ready", programs=[running])
            yield url
        finally:
            running.kill()


@contextmanager
def _exported(registry: CollectorRegistry) -> Iterator[str]:
    """Host and port of an exporter in our format: in OpenMetrics the library rewrites the colon of `vllm:`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
