"""What manifests say about each other."""

from __future__ import annotations

import pytest

from kubegym.core.spec import (
    GymEnvironment,
    RolloutJob,
    did_you_mean,
    models_for,
    parse_manifests,
    unresolved_environments,
    unresolved_servers,
)

pytestmark = pytest.mark.unit

MANIFESTS = """\
apiVersion: kubegym.dev/v1alpha1
kind: GymEnvironment
metadata: {name: arithmetic}
spec:
  models:
    policy: {serverRef: {name: quen}}
    judge: {server: {engine: simulated}}
---
apiVersion: kubegym.dev/v1alpha1
kind: ModelServer
metadata: {name: qwen}
spec: {engine: embedded}
---
apiVersion: kubegym.dev/v1alpha1
kind: RolloutJob
metadata: {name: job}
spec:
  environments:
  - {name: a, environmentRef: {name: arithmetic}, dataset: {bundled: {}}, models: {policy: {serverRef: {name: qwen}}}}
  - {name: b, environmentRef: {name: arithmetics}, dataset: {bundled: {}}}
  - {name: c, environmentRef: {name: mcqa}, dataset: {bundled: {}}}
  output: {uri: s3://a/b}
"""


def test_environment_references_resolve_in_the_documents_or_by_installed_name() -> None:
    manifests = parse_manifests(MANIFESTS, "m.yaml")
    assert [str(found) for found in unresolved_environments(manifests, installed={"mcqa"})] == [
        "RolloutJob/job: spec.environments[1].environmentRef.name: "
        "no GymEnvironment 'arithmetics'; did you mean 'arithmetic'?"
    ]
    assert [found.name for found in unresolved_environments(manifests)] == ["arithmetics", "mcqa"]
    assert unresolved_environments(manifests, installed={"mcqa", "arithmetics"}) == []


def test_server_references_resolve_in_the_documents() -> None:
    (found,) = unresolved_servers(parse_manifests(MANIFESTS, "m.yaml"))
    assert str(found) == (
        "GymEnvironment/arithmetic: spec.models.policy.serverRef.name: no ModelServer 'quen'; did you mean 'qwen'?"
    )


def test_a_jobs_models_win_over_the_environments() -> None:
    environment, _, job = parse_manifests(MANIFESTS, "m.yaml")
    assert isinstance(environment, GymEnvironment)
    assert isinstance(job, RolloutJob)
    models = models_for(job.spec.environments[0], environment)
    assert sorted(models) == ["judge", "policy"]
    assert models["policy"].server_ref is not None
    assert models["policy"].server_ref.name == "qwen"
    assert models_for(job.spec.environments[1], environment) == environment.spec.models


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("Skip", ["skip", "verify"], "; did you mean 'skip'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        ("zzz", [f"field{i}" for i in range(20)], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], says: str) -> None:
    assert did_you_mean(word, known) == says
