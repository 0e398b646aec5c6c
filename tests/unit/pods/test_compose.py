"""From ``run.json`` to what the engine runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.local.runspec import RunSpec
from kubegym.pods.compose import run_spec
from kubegym.pods.frozen import read_frozen
from kubegym.pods.pace import read_pace
from kubegym.pods.settings import PodSettings
from testbed.pods import environment_manifest, frozen_run

pytestmark = pytest.mark.unit

POLICY = {"policy": {"baseUrl": "http://ms.ns.svc:8000/v1", "model": "m", "kind": "server"}}


def entry(agent: str = "Worker", resources: str = "Worker", /, **more: Any) -> dict[str, Any]:
    endpoints = {
        "agent": ["http://env-agent.ns.svc:8001"] if agent == "Service" else [],
        "resources": ["http://env-resources.ns.svc:8002"] if resources == "Service" else [],
        "models": more.pop("models", POLICY),
    }
    manifest = environment_manifest("arithmetic", agent, resources)
    manifest["spec"] |= more.pop("environment", {})
    return {"manifest": manifest, "endpoints": endpoints, **more}


def spec_of(folder: Path, entries: dict[str, Any], *, rows: bool = True, **spec: Any) -> RunSpec:
    (folder / "run.json").write_text(json.dumps(frozen_run("s3://runs/x/", entries, **spec)))
    settings = PodSettings.model_validate({"KUBEGYM_MOUNT_ROOT": folder})
    return run_spec(read_frozen(folder / "run.json"), settings, rows=rows)


def secret(folder: Path, name: str, **files: str) -> Path:
    place = folder / "var/run/secrets/kubegym" / name
    place.mkdir(parents=True)
    for key, value in files.items():
        (place / key).write_text(value)
    return place


def test_placements(tmp_path: Path) -> None:
    entries = {
        "here": entry(),
        "sessions": entry("Worker", "Service"),
        "served": entry("Service", "Service", environment={"resources": {"image": "r/env@sha256:1"}}),
    }
    here, sessions, served = spec_of(tmp_path, entries).entries
    assert (here.agent_urls, here.resources_urls, here.image) == ((), (), None)
    assert (sessions.agent_urls, sessions.resources_urls) == ((), ("http://env-resources.ns.svc:8002",))
    assert (served.agent_urls, served.resources_urls) == (("http://env-agent.ns.svc:8001",), ())
    assert served.image == "r/env@sha256:1"
    assert here.models["policy"].kind == "server"
    assert here.version == "0.1.0"


def test_what_the_job_says(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        {"a": entry(sampling={"temperature": "0.5"}, rolloutsPerTask=3, weight=7), "b": entry()},
        rolloutsPerTask=2,
        sampling={"temperature": "1.0", "maxOutputTokens": 9, "seed": 4},
        concurrency=11,
        failurePolicy={"maxRolloutAttempts": 5, "maxFailedRolloutFraction": "0.5"},
        sharding={"tasksPerShard": 6},
    )
    a, b = spec.entries
    assert (a.rollouts_per_task, b.rollouts_per_task, a.weight) == (3, 2, 7.0)
    assert a.sampling == {"temperature": 0.5, "max_output_tokens": 9}
    assert b.seed == 4
    assert (spec.concurrency, spec.tasks_per_shard, spec.max_attempts, spec.max_failed_fraction) == (11, 6, 5, 0.5)
    assert spec.output == "s3://runs/x/"
    assert spec_of(tmp_path, {"a": entry()}).tasks_per_shard == 32, "as the API says, not as one machine does"


def test_keys_and_credentials_are_files(tmp_path: Path) -> None:
    output = secret(tmp_path, "output", AWS_ACCESS_KEY_ID="a")
    own = secret(tmp_path, "dataset-b", AWS_ACCESS_KEY_ID="b")
    models = {"policy": {"baseUrl": "https://api/v1", "model": "m", "kind": "endpoint"}}
    binding = {
        "endpoint": {"baseUrl": "https://api/v1", "model": "m", "apiKeySecretRef": {"name": "k", "key": "token"}}
    }
    entries = {
        "a": entry(models=models, environment={"models": {"policy": binding}}, dataset={"uri": "s3://rows/a.jsonl"}),
        "b": entry(dataset={"uri": "s3://rows/b.jsonl", "credentialsSecretRef": {"name": "mine"}}),
        "c": entry(dataset={"uri": "hf://datasets/o/n/c.jsonl", "revision": "abc"}),
        "d": entry(dataset={"uri": "s3://rows/d.jsonl", "endpoint": "http://other"}),
    }
    spec = spec_of(tmp_path, entries, endpoint="http://s3")
    a, b, c, d = (each.dataset for each in spec.entries)
    assert a is not None and b is not None and c is not None and d is not None  # noqa: PT018
    assert spec.output_credentials == str(output)
    assert spec.entries[0].models["policy"].api_key_file == str(
        tmp_path / "var/run/secrets/kubegym/model-a-policy/token"
    )
    assert (a.endpoint, a.region, a.credentials) == ("http://s3", "us-east-1", str(output)), "as the output"
    assert b.credentials == str(own)
    assert (c.endpoint, c.credentials, c.revision) == (None, None, "abc"), "a hub is no bucket"
    assert d.endpoint == "http://other"


def test_rows_of_a_config_map(tmp_path: Path) -> None:
    folder = tmp_path / "etc/kubegym/dataset/a"
    folder.mkdir(parents=True)
    (folder / "..data").mkdir()
    (folder / "rows").write_text("{}")
    entries = {"a": entry(dataset={"configMapRef": {"name": "rows"}})}
    dataset = spec_of(tmp_path, entries).entries[0].dataset
    assert dataset is not None
    assert (dataset.uri, dataset.format) == (str(folder / "rows"), "jsonl")
    (folder / "more.jsonl").write_text("{}")
    with pytest.raises(InvalidSpec, match=r"more\.jsonl, rows"):
        spec_of(tmp_path, entries)
    assert spec_of(tmp_path, entries, rows=False).entries[0].dataset is None


def test_certificate_authorities(tmp_path: Path) -> None:
    output = {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}
    spec = spec_of(tmp_path, {"a": entry(dataset={"uri": "s3://rows/a.jsonl"})}, output=output)
    assert spec.output_ca_bundle == str(tmp_path / "etc/kubegym/ca/output/ca.crt")
    assert spec.entries[0].dataset is not None
    assert spec.entries[0].dataset.ca_bundle == spec.output_ca_bundle


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="policy"):
        spec_of(tmp_path, {"a": entry(models={})})
    with pytest.raises(InvalidSpec, match="not mounted"):
        spec_of(tmp_path, {"a": entry()}, endpoint="http://s3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "no frozen run"),
        ('{"schema": 9}', "schema 9"),
        ('{"schema": 1}', "KeyError"),
    ],
)
def test_a_file_that_is_no_frozen_run(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InvalidSpec, match=message):
        read_frozen(tmp_path / "run.json")
    with pytest.raises(InvalidSpec, match="cannot be read"):
        read_frozen(tmp_path / "absent.json")


def test_an_entry_that_is_missing(tmp_path: Path) -> None:
    run = frozen_run("s3://runs/x/", {"a": entry(), "b": entry()})
    del run["environments"]["b"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(InvalidSpec, match="lacks the environments of the entries b"):
        read_frozen(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("text", "pace"),
    [
        ('{"concurrency": 7}', 7),
        ('{"concurrency": 0}', None),
        ('{"concurrency": true}', None),
        ("{", None),
        ("[]", None),
    ],
)
def test_pace(text: str, pace: int | None, tmp_path: Path) -> None:
    (tmp_path / "pace.json").write_text(text)
    assert read_pace(tmp_path / "pace.json") == pace
    assert read_pace(tmp_path / "absent.json") is None
