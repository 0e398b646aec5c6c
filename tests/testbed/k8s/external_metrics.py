"""A source of metrics for the real HorizontalPodAutoscaler: the aggregated API ``external.metrics.k8s.io``.

It listens on loopback. On a cluster KEDA or an adapter of Prometheus serves it; here a test says what the values are.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from testbed.k8s.control_plane import ControlPlane
from testbed.k8s.process import Program, until

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
_SERVICE = "external-metrics"
_REGISTRATION = "apiregistration.k8s.io/v1"


class ExternalMetrics:
    """Values by namespace and metric.

    Attributes:
        values: what is told; of another metric nothing is.
        asked: how often each was asked for.
    """

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}
        self.asked: dict[tuple[str, str], int] = {}

    def answer(self, path: str) -> dict[str, Any] | None:
        """The reply to a GET."""
        words = path.partition("?")[0].strip("/").split("/")
        if words == ["apis", GROUP, VERSION]:
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [],
            }
        if len(words) != 6 or words[:4] != ["apis", GROUP, VERSION, "namespaces"]:
            return None
        place = (words[4], words[5])
        self.asked[place] = self.asked.get(place, 0) + 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        value = self.values.get(place)
        items = [
            {"metricName": place[1], "metricLabels": {}, "timestamp": now, "value": f"{told * 1000:.0f}m"}
            for told in ([] if value is None else [value])
        ]
        return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}


@contextmanager
def external_metrics(plane: ControlPlane, folder: Path) -> Iterator[ExternalMetrics]:
    """Serve values to the control plane while the block runs."""
    metrics = ExternalMetrics()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = metrics.answer(self.path)
            body = json.dumps(
                answer or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            ).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            return None

    certificate, key = plane.authority.server("metrics", ["127.0.0.1", "localhost"]).write(folder, "metrics")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with aggregated(plane, "default", server.server_address[1]):
            yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def aggregated(plane: ControlPlane, namespace: str, port: int, *, programs: Sequence[Program] = ()) -> Iterator[None]:
    """While the block runs, ``external.metrics.k8s.io`` is what listens on a port of this machine.

    Args:
        plane: the control plane that asks it.
        namespace: an existing one, for the Service that leads there.
        port: of loopback.
        programs: what serves it; when one ends nobody waits any longer.
    """
    name = f"{VERSION}.{GROUP}"
    service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    plane.api.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": _SERVICE}, "spec": service}, namespace
    )
    spec = {
        "group": GROUP,
        "version": VERSION,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,  # its name would be the Service's
        "service": {"namespace": namespace, "name": _SERVICE, "port": port},
    }
    plane.api.create({"apiVersion": _REGISTRATION, "kind": "APIService", "metadata": {"name": name}, "spec": spec})

    def available() -> bool:
        found = plane.api.get(_REGISTRATION, "APIService", name) or {}
        conditions = found.get("status", {}).get("conditions") or ()
        return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)

    try:
        until(available, "the aggregated API of the metrics is there", programs=programs)
        yield
    finally:
        plane.api.delete(_REGISTRATION, "APIService", name)
        plane.api.delete("v1", "Service", _SERVICE, namespace)
