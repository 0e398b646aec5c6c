from __future__ import annotations

from typing import Any

import pytest

from kubegym_operator.kube.protocol import Kind, Object
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.references import INDICES
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB
from kubegym_operator.watch.routes import Routes

JOB = Kind("batch/v1", "Job")
ENV, MS, RJ = (
    Key("GymEnvironment", "space", "math"),
    Key("ModelServer", "space", "qwen"),
    Key("RolloutJob", "space", "run"),
)


class Bench:
    """A cache with routes, and what became due."""

    def __init__(self) -> None:
        self.cache = Cache(INDICES)
        self.due: list[Key] = []
        self.cache.listen(Routes(self.cache, self.due.append))
        self.version = 0

    def put(self, kind: Kind, name: str, *, own: bool = False, namespace: str = "space", **fields: Any) -> set[Key]:
        obj = self.object(kind, name, namespace, **fields)
        self.due.clear()
        self.cache.put(obj, own=own)
        return set(self.due)

    def remove(self, kind: Kind, name: str) -> set[Key]:
        self.due.clear()
        self.cache.remove(self.object(kind, name, "space"))
        return set(self.due)

    def object(self, kind: Kind, name: str, namespace: str, **fields: Any) -> Object:
        self.version += 1
        metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(self.version)}
        metadata.update(fields.pop("metadata", {}))
        return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}


ENVIRONMENT_SPEC = {"models": {"policy": {"serverRef": {"name": "qwen"}}}}
JOB_SPEC = {"environments": [{"name": "math", "environmentRef": {"name": "math"}}]}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(MODEL_SERVER, "qwen", spec={})
    bench.put(GYM_ENVIRONMENT, "math", spec=ENVIRONMENT_SPEC)
    bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC)
    return bench


def test_a_child_concerns_its_owner_alone(bench: Bench) -> None:
    labels = {"kubegym.dev/rolloutjob-name": "run", "app.kubernetes.io/managed-by": "kubegym"}
    assert bench.put(JOB, "run", metadata={"labels": labels}) == {RJ}
    assert bench.remove(JOB, "run") == {RJ}


def test_a_new_job_concerns_what_it_uses(bench: Bench) -> None:
    assert bench.put(ROLLOUT_JOB, "other", spec=JOB_SPEC) == {Key("RolloutJob", "space", "other"), ENV, MS}


def test_a_model_server_that_becomes_ready_concerns_its_users(bench: Bench) -> None:
    ready = {"conditions": [{"type": "Serving", "status": "True", "reason": "Serving"}], "readyReplicas": 1}
    assert bench.put(MODEL_SERVER, "qwen", spec={}, status=ready) == {MS, ENV, RJ}


def test_an_environment_that_serves_concerns_its_jobs_and_servers(bench: Bench) -> None:
    serves = {"conditions": [{"type": "Serving", "status": "True", "reason": "Serving"}]}
    assert bench.put(GYM_ENVIRONMENT, "math", spec=ENVIRONMENT_SPEC, status=serves) == {ENV, RJ, MS}


def test_our_own_status_concerns_others_and_not_itself(bench: Bench) -> None:
    serves = {"conditions": [{"type": "Serving", "status": "True", "reason": "Serving"}]}
    assert bench.put(GYM_ENVIRONMENT, "math", own=True, spec=ENVIRONMENT_SPEC, status=serves) == {RJ, MS}


def test_an_edit_that_our_own_status_brings_concerns_the_edited_itself(bench: Bench) -> None:
    """The watch's event of the edit is older than the answer to our write, and is refused."""
    edited = {**ENVIRONMENT_SPEC, "agent": {"maxSteps": 3}}
    before = bench.object(GYM_ENVIRONMENT, "math", "space", metadata={"generation": 2}, spec=edited)
    status = {"observedGeneration": 1}
    found = bench.put(GYM_ENVIRONMENT, "math", own=True, metadata={"generation": 2}, spec=edited, status=status)
    assert ENV in found
    assert not bench.cache.put(before)


def test_an_edited_environment_concerns_its_jobs_when_the_edit_was_seen(bench: Bench) -> None:
    """What its conditions say is true of another generation until then, and nothing can be decided by it."""
    told: list[bool] = []
    for generation, observed in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        serves = {"conditions": [{"type": "Serving", "status": "True", "reason": "Serving"}]}
        status = {**serves, "observedGeneration": observed}
        metadata = {"generation": generation}
        told.append(RJ in bench.put(GYM_ENVIRONMENT, "math", metadata=metadata, spec=ENVIRONMENT_SPEC, status=status))
    assert told == [True, False, True, False, True]


def test_a_model_server_made_for_an_environment_is_looked_at_and_so_is_its_owner(bench: Bench) -> None:
    labels = {"kubegym.dev/gymenvironment-name": "math"}
    made = Key("ModelServer", "space", "math-policy")
    assert bench.put(MODEL_SERVER, "math-policy", metadata={"labels": labels}, spec={}) >= {made, ENV}


def test_progress_wakes_nobody(bench: Bench) -> None:
    assert bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC, status={"rollouts": {"scored": 7}}, own=True) == set()
    assert bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC, status={"rollouts": {"scored": 8}}) == {RJ}
    assert bench.put(MODEL_SERVER, "qwen", spec={}, status={"lastRequestTime": "now"}) == {MS}


def test_a_job_s_deadline_concerns_the_job_alone_its_size_and_suspension_what_it_uses(bench: Bench) -> None:
    spec = {**JOB_SPEC, "activeDeadlineSeconds": 9}
    assert bench.put(ROLLOUT_JOB, "run", metadata={"generation": 2}, spec=spec) == {RJ}
    spec = {**spec, "parallelism": 9}
    assert bench.put(ROLLOUT_JOB, "run", metadata={"generation": 3}, spec=spec) == {RJ, ENV, MS}
    assert bench.put(ROLLOUT_JOB, "run", metadata={"generation": 4}, spec={**spec, "suspend": True}) == {RJ, ENV, MS}


def test_a_tail_that_needs_less_concerns_what_it_uses(bench: Bench) -> None:
    rollouts = {"expected": 1000, "scored": 900, "unscored": 0, "failed": 0}
    assert bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC, status={"rollouts": rollouts}, own=True) == set()
    rollouts = {**rollouts, "scored": 990}  # ten are left, of 32 that may be in flight
    assert bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC, status={"rollouts": rollouts}, own=True) == {ENV, MS}


def test_a_job_that_finishes_or_goes_frees_what_it_used(bench: Bench) -> None:
    done = {"conditions": [{"type": "Complete", "status": "True", "reason": "Finished"}]}
    assert bench.put(ROLLOUT_JOB, "run", spec=JOB_SPEC, status=done) == {RJ, ENV, MS}
    assert bench.remove(ROLLOUT_JOB, "run") == {RJ, ENV, MS}


def test_a_successor_of_the_same_name_is_news(bench: Bench) -> None:
    bench.remove(MODEL_SERVER, "qwen")
    assert bench.put(MODEL_SERVER, "qwen", metadata={"uid": "second"}, spec={}) == {MS, ENV, RJ}


def test_an_entry_s_own_server_concerns_the_job(bench: Bench) -> None:
    entry = {"name": "m", "environmentRef": {"name": "math"}, "models": {"judge": {"serverRef": {"name": "big"}}}}
    bench.put(ROLLOUT_JOB, "judged", spec={"environments": [entry]})
    assert bench.put(MODEL_SERVER, "big", spec={}) == {
        Key("ModelServer", "space", "big"),
        Key("RolloutJob", "space", "judged"),
    }


def test_a_server_of_another_namespace_concerns_its_users_there(bench: Bench) -> None:
    abroad = {"models": {"policy": {"serverRef": {"name": "shared", "namespace": "models"}}}}
    bench.put(GYM_ENVIRONMENT, "far", spec=abroad)
    assert bench.put(MODEL_SERVER, "shared", namespace="models", spec={}) == {
        Key("ModelServer", "models", "shared"),
        Key("GymEnvironment", "space", "far"),
    }


@pytest.mark.parametrize("spec", [{"environments": [{}]}, {"environments": 7}, {"environments": [{"name": "x"}]}])
def test_an_object_that_breaks_the_models_stops_nothing(bench: Bench, spec: Object) -> None:
    assert Key("RolloutJob", "space", "broken") in bench.put(ROLLOUT_JOB, "broken", spec=spec)
