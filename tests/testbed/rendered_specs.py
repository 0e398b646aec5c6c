"""Hypothesis strategies of manifests that can be rendered together: servers, environments, and a job that runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from kubegym.core.spec import API_VERSION, manifest_from
from testbed.rendered import Manifest, with_identity

Draw = Callable[[st.SearchStrategy[Any]], Any]

NAMES = st.sampled_from(["a", "math", "code-2", "x" * 40, "a-b-c", "agent", "resources", "workers"])
ROLES = st.sampled_from(
    ["policy", "judge", "user", "simulated_user", "agent", "resources", "a_b", "a-b", "x-pods", "fetch", "r" * 32]
)
QUEUES = st.none() | st.just({"name": "q"}) | st.just({"name": "q", "priorityClass": "low"})
SOURCES = st.sampled_from(
    [
        {"uri": "hf://org/model", "revision": "abc", "credentialsSecretRef": {"name": "hub"}},
        {"uri": "s3://models/m/"},
        {"uri": "gs://models/m/", "revision": "7"},
        {"uri": "pvc://claim/folder"},
        {"uri": f"oci://registry.example.com:5000/m@sha256:{'0' * 64}"},
    ]
)
CACHES = st.sampled_from(
    [
        {"persistentVolumeClaim": {"claimName": "weights"}},
        {"ephemeral": {}},
        {"ephemeral": {"sizeLimit": "10Gi"}},
        {"image": "registry.example.com/weights:1"},
    ]
)
ACCELERATORS = st.sampled_from(
    [
        {"resourceName": "nvidia.com/gpu"},
        {"resourceName": "amd.com/gpu"},
        {"resourceName": "cpu"},
        {"resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "two"}]},
    ]
)
OVERLAYS = st.sampled_from(
    [
        None,
        {},
        {"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}},
        {"spec": {"nodeSelector": {"pool": "big"}, "tolerations": [{"operator": "Exists"}]}},
        {"spec": {"containers": [{"name": "beside", "image": "registry.example.com/beside:1"}]}},
        {"spec": {"initContainers": [{"name": "first", "image": "registry.example.com/first:1"}]}},
        {"spec": {"terminationGracePeriodSeconds": 7, "securityContext": {"runAsUser": 1000}}},
    ]
)
COMPUTES = st.none() | st.just({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}})


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@st.composite
def server_specs(draw: Draw) -> dict[str, Any]:
    """The spec of a ModelServer, which may be an inline one."""
    engine = draw(st.sampled_from(["vllm", "custom", "embedded", "simulated"]))
    nodes = draw(st.sampled_from([1, 1, 2])) if engine == "vllm" else 1
    overlay = draw(OVERLAYS)
    if engine == "custom":
        overlay = {"spec": {"containers": [{"name": "engine", "image": "registry.example.com/engine:1"}]}}
    return _without_none(
        {
            "engine": engine,
            "source": draw(SOURCES if engine == "vllm" else st.none() | SOURCES),
            "replicas": draw(st.none() | st.integers(0, 5)),
            "suspend": draw(st.booleans()),
            "parallelism": {"tensor": draw(st.sampled_from([1, 2, 8])) * nodes, "pipeline": 1, "nodes": nodes},
            "accelerator": draw(st.none() | ACCELERATORS),
            "cache": draw(st.none() | CACHES),
            "queue": draw(QUEUES),
            "engineArgs": {"seed": "1"} if engine != "custom" else None,
            "serviceAccountName": draw(st.none() | st.just("their-own")),
            "idlePolicy": draw(st.none() | st.just({"scaleToZeroAfterSeconds": 60})),
            "podTemplate": overlay,
        }
    )


@st.composite
def bindings(draw: Draw) -> dict[str, Any]:
    """What plays a role; a shared server is the one named ``shared``."""
    kind = draw(st.sampled_from(["server", "serverRef", "endpoint"]))
    if kind == "server":
        return {"server": draw(server_specs())}
    if kind == "serverRef":
        return {"serverRef": {"name": "shared"}}
    urls = ["https://api.example.com/v1", "http://10.0.0.7:8000/v1", "http://vllm.models.svc:8000/v1", "http://vllm/v1"]
    key = draw(st.none() | st.just({"name": "keys", "key": "token"}))
    return {"endpoint": _without_none({"baseUrl": draw(st.sampled_from(urls)), "model": "m", "apiKeySecretRef": key})}


@st.composite
def environment_specs(draw: Draw) -> dict[str, Any]:
    """The spec of a GymEnvironment with a policy."""
    agent = draw(st.sampled_from(["Service", "Worker"]))
    resources = "Service" if agent == "Service" else draw(st.sampled_from(["Service", "Worker"]))
    roles = draw(st.lists(ROLES, max_size=4, unique=True))
    return _without_none(
        {
            "models": {role: draw(bindings()) for role in {"policy", *roles}},
            "resources": _without_none(
                {
                    "placement": resources,
                    "replicas": draw(st.none() | st.integers(0, 5)) if resources == "Service" else None,
                    "config": {"x": draw(st.integers(0, 3))},
                    "compute": draw(COMPUTES),
                    "serviceAccountName": draw(st.none() | st.just("their-own")),
                    "podTemplate": draw(OVERLAYS),
                }
            ),
            "agent": _without_none(
                {
                    "placement": agent,
                    "replicas": draw(st.none() | st.integers(0, 5)) if agent == "Service" else None,
                    "maxSteps": draw(st.none() | st.integers(1, 9)),
                    "podTemplate": draw(OVERLAYS),
                }
            ),
            "network": {"allowedEgress": draw(st.sampled_from([[], [{"ports": [{"port": 1}]}]]))},
            "suspend": draw(st.booleans()),
        }
    )


@st.composite
def entries(draw: Draw, name: str, environment: str) -> dict[str, Any]:
    """An entry of a job."""
    origins: list[dict[str, Any]] = [
        {"bundled": {}},
        {"configMapRef": {"name": "rows"}},
        {"uri": "s3://data/x.jsonl", "credentialsSecretRef": {"name": "data"}, "endpoint": "http://s3:9000"},
    ]
    models = draw(st.just({}) | st.dictionaries(ROLES, bindings(), max_size=2))
    return {
        "name": name,
        "environmentRef": {"name": environment},
        "dataset": draw(st.sampled_from(origins)),
        "models": models,
    }


@st.composite
def worlds(draw: Draw) -> list[dict[str, Any]]:
    """Manifests that refer to each other only: a shared server, one or two environments, a job of all of them."""
    names = draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
    worker = _without_none(
        {
            "compute": draw(COMPUTES),
            "serviceAccountName": draw(st.none() | st.just("their-own")),
            "podTemplate": draw(OVERLAYS),
        }
    )
    job = _without_none(
        {
            "environments": [draw(entries(f"e{number}", name)) for number, name in enumerate(names)],
            "parallelism": draw(st.integers(0, 9)),
            "output": _without_none(
                {
                    "uri": "s3://runs/x/",
                    "endpoint": draw(st.none() | st.just("http://s3.storage.svc:9000")),
                    "credentialsSecretRef": draw(st.none() | st.just({"name": "out"})),
                    "caConfigMapRef": draw(st.none() | st.just({"name": "ca", "key": "ca.crt"})),
                }
            ),
            "queue": draw(QUEUES),
            "worker": worker,
        }
    )
    raw = [("ModelServer", "shared", draw(server_specs())), ("RolloutJob", draw(NAMES), job)]
    raw += [("GymEnvironment", name, draw(environment_specs())) for name in names]
    return [
        {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec} for kind, name, spec in raw
    ]


def parsed(world: list[dict[str, Any]]) -> list[Manifest]:
    """The manifests as an API server has stored them."""
    return [manifest_from(with_identity(raw), "world") for raw in world]
