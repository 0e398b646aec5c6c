"""From flags and manifests to a RunSpec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import EnvironmentNotFound, InputError, InvalidSpec
from kubegym.local.resolve import RunFlags, resolve
from kubegym.local.runspec import DatasetRef, ModelRef, RunSpec
from kubegym.local.tasks import BUNDLED

pytestmark = pytest.mark.unit

URL = "http://127.0.0.1:1/v1"


def test_a_folder_runs_its_sample_job_where_no_output_is_named(echo: Path) -> None:
    spec = resolve(["echo"])
    (entry,) = spec.entries
    assert (spec.name, spec.output, spec.concurrency, spec.max_attempts) == ("echo-sample", None, 5, 2)
    assert (spec.max_failed_fraction, spec.flush_seconds) == (0.5, 3.0)
    assert (entry.name, entry.environment, entry.rollouts_per_task) == ("echo", "echo", 2)
    assert entry.dataset == DatasetRef(BUNDLED, limit=3)
    assert entry.models == {"policy": ModelRef("simulated", "simulated")}
    assert (entry.config, entry.max_steps, entry.rollout_timeout) == ({"bonus": 1.0}, 3, 60.0)
    assert (entry.sampling, entry.on_truncated) == ({"temperature": 0.5}, "Skip")


def test_a_manifest_file_runs_its_job_and_writes_where_it_says(echo: Path, home: Path) -> None:
    by_file = resolve([str(echo / "environment.yaml")])
    by_folder = resolve(["echo"])
    assert by_file.output == f"file://{home}/out"
    entry = replace(by_file.entries[0], environment="echo")
    assert replace(by_file, output=None, entries=(entry,)) == by_folder
    assert resolve([str(echo / "environment.yaml")], RunFlags(output="elsewhere")).output == "elsewhere"


def test_with_a_dataset_only_flags_and_the_environment_count(echo: Path) -> None:
    spec = resolve(["echo"], RunFlags(dataset="rows.jsonl"))
    (entry,) = spec.entries
    assert (spec.name, spec.output, spec.concurrency) == ("echo", None, 32)
    assert entry.dataset == DatasetRef("rows.jsonl")
    assert (entry.rollouts_per_task, entry.sampling, entry.on_truncated) == (1, {}, "Verify")
    assert (entry.config, entry.max_steps, entry.rollout_timeout) == ({"bonus": 1.0}, 3, 60.0)
    assert entry.models == {"policy": ModelRef("simulated", "simulated")}


def test_flags_win_over_manifests(echo: Path) -> None:
    flags = RunFlags(
        base_url=URL,
        model="m",
        api_key_file="key",
        limit=2,
        offset=1,
        shuffle_seed=7,
        rollouts_per_task=9,
        concurrency=4,
        temperature=0.0,
        top_p=0.9,
        max_output_tokens=10,
        seed=0,
        max_steps=1,
        output="s3://b/p",
        materialized_inputs=True,
    )
    spec = resolve(["echo"], flags)
    (entry,) = spec.entries
    assert (spec.concurrency, spec.output, spec.materialized_inputs) == (4, "s3://b/p", True)
    assert entry.dataset == DatasetRef(BUNDLED, offset=1, limit=2, shuffle_seed=7)
    assert entry.sampling == {"temperature": 0.0, "top_p": 0.9, "max_output_tokens": 10}
    assert (entry.rollouts_per_task, entry.seed, entry.max_steps) == (9, 0, 1)
    assert entry.models["policy"] == ModelRef("endpoint", "m", base_url=URL, api_key_file="key")


def test_an_environment_is_found_by_name(echo: Path, home: Path) -> None:
    (home / "environments").mkdir()
    echo.rename(home / "environments" / "echo")
    spec = resolve(["echo"])
    assert Path(spec.entries[0].environment).resolve() == home / "environments" / "echo"
    assert spec.entries[0].rollouts_per_task == 2


def test_a_folder_without_a_manifest(echo: Path) -> None:
    (echo / "environment.yaml").unlink()
    spec = resolve(["echo"], RunFlags(engine="embedded"))
    assert (spec.name, spec.entries[0].name, spec.entries[0].config) == ("echo", "echo", {})
    assert spec.entries[0].dataset == DatasetRef(BUNDLED)
    assert resolve(["./echo/"]).name == "echo"


def split(echo: Path, home: Path) -> tuple[str, str]:
    """Environment and job in files of their own."""
    environment, job = (echo / "environment.yaml").read_text().split("---\n")
    (echo / "environment.yaml").write_text(environment)
    (home / "job.yaml").write_text(job)
    return str(echo / "environment.yaml"), str(home / "job.yaml")


def test_environment_and_job_in_two_files_or_found_by_reference(echo: Path, home: Path) -> None:
    environment, job = split(echo, home)
    both = resolve([environment, job])
    assert both.entries[0].config == {"bonus": 1.0}
    (home / "environments").mkdir()
    echo.rename(home / "environments" / "echo")
    alone = resolve([job])
    assert alone.entries[0].config == {"bonus": 1.0}
    assert alone.entries[0].max_steps == 3
    assert alone.output == both.output


def test_an_environments_manifest_alone_runs_its_example_rows(echo: Path, home: Path) -> None:
    environment, _ = split(echo, home)
    spec = resolve([environment])
    assert (spec.name, spec.entries[0].dataset) == ("echo", DatasetRef(BUNDLED))
    assert resolve([environment], RunFlags(dataset="x.jsonl", limit=2)).entries[0].dataset == DatasetRef(
        "x.jsonl", limit=2
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"base_url": URL}, "--base-url needs --model NAME"),
        ({"base_url": URL, "engine": "simulated"}, "each name a model"),
        ({"model": "m"}, "--model needs --base-url URL"),
        ({"limit": 0}, "--limit must be at least 1, not 0"),
        ({"rollouts_per_task": 0}, "--rollouts-per-task must be at least 1, not 0"),
        ({"concurrency": -1}, "--concurrency must be at least 1, not -1"),
        ({"max_steps": 0}, "--max-steps must be at least 1, not 0"),
        ({"max_output_tokens": 0}, "--max-output-tokens must be at least 1, not 0"),
        ({"offset": -1}, "--offset must be at least 0, not -1"),
    ],
)
def test_flags_that_cannot_be_meant(echo: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        resolve(["echo"], RunFlags(**flags))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"engine": "embedded"}, ModelRef("embedded", "tiny")),
        ({"engine": "embedded", "model": "w/big.gguf"}, ModelRef("embedded", "big", path="w/big.gguf")),
        ({"engine": "simulated", "model": "s"}, ModelRef("simulated", "s")),
    ],
)
def test_engines(echo: Path, flags: dict[str, Any], expected: ModelRef) -> None:
    assert resolve(["echo"], RunFlags(**flags)).entries[0].models["policy"] == expected


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([], InvalidSpec, "nothing to run"),
        (["echos"], EnvironmentNotFound, "no environment is called 'echos'"),
        (["./echos"], EnvironmentNotFound, "is no folder"),
        (["empty"], EnvironmentNotFound, r"empty has no app\.py"),
        (["echo", "echo"], InvalidSpec, "several targets must all be manifest files"),
        (["absent.yaml"], InputError, r"absent\.yaml"),
    ],
)
def test_targets_that_are_nothing(
    echo: Path, home: Path, targets: list[str], error: type[Exception], message: str
) -> None:
    (home / "empty").mkdir()
    with pytest.raises(error, match=message):
        resolve(targets)


EDITS = [
    ("kind: RolloutJob", "kind: RolloutJobs", r"did you mean .*RolloutJob"),
    ("concurrency: 5", "concurency: 5", r"did you mean .*concurrency"),
    ("environmentRef: {name: echo}", "environmentRef: {name: ecco}", "no environment is called 'ecco'"),
    ("server: {engine: simulated}", "serverRef: {name: big}", r"serverRef: no ModelServer 'big' in the manifests"),
    ("server: {engine: simulated}", "server: {engine: vllm, source: {uri: hf://a/b}}", "is started on a cluster"),
    ("bundled: {}", "configMapRef: {name: x, key: y}", "exists on a cluster only"),
]


@pytest.mark.parametrize(("old", "new", "message"), EDITS, ids=[new for _, new, _ in EDITS])
def test_manifests_that_cannot_be_run_here(echo: Path, old: str, new: str, message: str) -> None:
    path = echo / "environment.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        resolve(["echo"])


def test_a_policy_flag_makes_a_cluster_model_unnecessary(echo: Path) -> None:
    path = echo / "environment.yaml"
    path.write_text(path.read_text().replace("server: {engine: simulated}", "serverRef: {name: big}"))
    assert resolve(["echo"], RunFlags(engine="simulated")).entries[0].models["policy"].kind == "simulated"


def test_one_job_at_a_time(echo: Path) -> None:
    path = echo / "environment.yaml"
    environment, job = path.read_text().split("---\n")
    path.write_text("---\n".join([environment, job, job.replace("echo-sample", "other")]))
    with pytest.raises(InvalidSpec, match=r"several RolloutJobs \(echo-sample, other\)"):
        resolve([str(path)])


def test_a_dataset_is_for_one_environment(echo: Path) -> None:
    path = echo / "environment.yaml"
    second = (
        "    - name: again\n      environmentRef: {name: echo}\n      dataset: {bundled: {}}\n      agentRefs: [b]\n"
    )
    text = path.read_text().replace("limit: 3}\n", "limit: 3}\n      agentRefs: [a]\n" + second)
    path.write_text(text)
    spec = resolve([str(path)])
    assert [entry.name for entry in spec.entries] == ["echo", "again"]
    with pytest.raises(InvalidSpec, match="--dataset is for one environment"):
        resolve([str(path)], RunFlags(dataset="x"))


def test_a_spec_survives_json(echo: Path) -> None:
    for target in ("echo", str(echo / "environment.yaml")):
        spec = resolve([target], RunFlags(seed=3))
        assert RunSpec.from_json(spec.to_json()) == spec
