"""Dashboards and alerts name series that the programs expose, and labels that these have."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kubegym.agent.server import AgentServer
from kubegym.core.outcomes import Failure
from kubegym.core.protocols import Attempt
from kubegym.http.server import App
from kubegym.model.metrics import ModelServerMetrics
from kubegym.model.queue import FairQueue
from kubegym.model.simulated.metrics import EngineMetrics
from kubegym.resources.server_metrics import ResourcesServerMetrics
from kubegym.rollout.metrics import WorkerMetrics
from kubegym_operator.metrics import ObjectsCollector, OperatorMetrics, WorkQueueCollector, WorkQueueFigures
from testbed.monitoring import alerts, dashboards, metrics_in, queries

pytestmark = pytest.mark.unit

VLLM_ONLY = {  # vLLM 0.32; the simulated engine has neither preemptions nor a prefix cache
    "vllm:num_preemptions_total": {"engine", "model_name"},
    "vllm:prefix_cache_queries_total": {"engine", "model_name"},
    "vllm:prefix_cache_hits_total": {"engine", "model_name"},
}
TARGET = {"namespace", "pod", "service", "component", "rolloutjob", "gymenvironment", "modelserver"}
"""Labels that Prometheus and the chart's monitors give every target."""

Series = dict[str, set[str]]


def series(text: str) -> Series:
    """Names of series and their labels; of a counter that has not counted yet, only the name."""
    found: Series = defaultdict(set)
    for family in text_string_to_metric_families(text):
        found[f"{family.name}_total" if family.type == "counter" else family.name] |= set()
        for sample in family.samples:
            found[sample.name].update(sample.labels)
    return found


def worker() -> str:
    metrics = WorkerMetrics()
    usage = {"policy": {"input_tokens": 1, "output_tokens": 1}}
    failure = Failure(stage="model", reason="ModelUnavailable", message="", retryable=True, attempt=1)
    metrics.finished(Attempt("failed", failure=failure, usage=usage), final=False)
    metrics.finished(Attempt("scored", reward=1.0, usage=usage), final=True)
    return generate_latest(metrics.registry).decode()


def model_server() -> str:
    decisions = {"new": 1, "stay": 0}
    metrics = ModelServerMetrics(lambda: [("http://127.0.0.1:8001/v1", True, 0, 0)], FairQueue(), lambda: decisions)
    metrics.using("run", "policy")(1, 1)
    metrics.waited(0.1)
    metrics.started()
    metrics.ended("/v1/responses", "200", 0.1)
    return generate_latest(metrics.registry).decode()


def engine() -> str:
    metrics = EngineMetrics("m")
    metrics.finished("stop", 1, 1, 0.1, 0.2)
    return metrics.render(0, 0, 0.0).decode()


def resources() -> str:
    metrics = ResourcesServerMetrics(lambda: 0, lambda: 0)
    metrics.answered("/verify", 200, 0.1)
    return generate_latest(metrics.registry).decode()


def operator() -> str:
    metrics = OperatorMetrics()
    metrics.reconciled("RolloutJob", "ok", 0.1)
    metrics.requested("patch", "RolloutJob", "200")
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "shards": {"total": 1},
        "rollouts": {"expected": 1},
        "rewardMean": "0.93",
    }
    job = {"metadata": {"namespace": "team", "name": "night"}, "status": status}
    metrics.registry.register(WorkQueueCollector(lambda: WorkQueueFigures(0, 0, 0, 0, 0.0)))
    metrics.registry.register(ObjectsCollector(lambda kind: [job], lambda: {("ns", "server"): 32}))
    return generate_latest(metrics.registry).decode()


async def page(app: App, path: str, body: bytes = b"") -> str:
    """A GET, or a POST of ``body``, of an application in this process."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    await app({**scope, "headers": [], "http_version": "1.1"}, receive, send)
    return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.fixture
async def exposed() -> Series:
    """What all programs together expose."""

    agent = AgentServer(lambda *_: object(), object()).app()  # type: ignore[arg-type, return-value]
    await page(agent, "/run", b'{"responses_create_params": {"input": "1 + 1"}}')  # fails, and is counted
    texts = [worker(), model_server(), engine(), resources(), await page(agent, "/metrics"), operator()]
    found: Series = dict(VLLM_ONLY)
    for text in texts:
        found.update(series(text))
    return found


async def test_every_query_names_series_that_exist(exposed: Series) -> None:
    asked = [*queries(), *alerts()]
    unknown = {place: names for place, text in asked if (names := metrics_in(text) - exposed.keys())}
    assert unknown == {}


async def test_every_query_names_labels_that_its_series_have(exposed: Series) -> None:
    for place, text in [*queries(), *alerts()]:
        having = TARGET.union(*(exposed[name] for name in metrics_in(text)))
        grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", text) for label in labels.split(",")}
        matched = {label for labels in re.findall(r"\{([^}]*)\}", text) for label in re.findall(r"(\w+)[!=]", labels)}
        assert (grouped | matched) - having == set(), f"{place}: {text}"


def test_variables_name_series_and_labels_that_exist(exposed: Series) -> None:
    for name, dashboard in dashboards().items():
        for variable in dashboard["templating"]["list"]:  # type: ignore[index]
            if variable["type"] == "query":
                (metric,) = metrics_in(variable["query"])
                assert metric in exposed, f"{name}: {variable['query']}"
                assert variable["name"] in TARGET | exposed[metric]
