"""A frozen run: what its digest is made of, the workers' image, and the Jobs' rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kubegym.core.spec import RolloutJob
from kubegym_operator.build.context import BuildContext, Images
from kubegym_operator.build.errors import BuildError, WorkerImageConflict
from kubegym_operator.build.frozen import MAX_BYTES, FrozenRun
from kubegym_operator.build.job import build_worker_job
from testbed.rendered import Rendered, render
from testbed.rendered_specs import parsed

CONTEXT = BuildContext()
World = list[dict[str, Any]]

WORLD: World = [
    {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": "shared"},
        "spec": {"engine": "vllm", "source": {"uri": "hf://org/model", "revision": "a"}},
    },
    {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": "math", "labels": {"app.kubernetes.io/version": "1"}},
        "spec": {
            "models": {"policy": {"serverRef": {"name": "shared"}}, "judge": {"server": {"engine": "embedded"}}},
            "resources": {"config": {"level": 1}},
        },
    },
    {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "RolloutJob",
        "metadata": {"name": "run"},
        "spec": {
            "environments": [
                {"name": "math", "environmentRef": {"name": "math"}, "dataset": {"uri": "s3://data/x.jsonl"}}
            ],
            "output": {"uri": "s3://runs/x/"},
        },
    },
]


def rendered(change: Callable[[Any, Any, Any], None] | None = None, context: BuildContext = CONTEXT) -> Rendered:
    world = copy.deepcopy(WORLD)
    if change is not None:
        change(*(raw["spec"] for raw in world))
    return render(parsed(world), context)


def digest(change: Callable[[Any, Any, Any], None] | None = None, context: BuildContext = CONTEXT) -> str:
    run: FrozenRun = rendered(change, context).runs["run"]
    return run.digest


PACE: dict[str, Callable[[Any, Any, Any], None]] = {
    "server replicas": lambda server, environment, job: server.update(replicas=7),
    "server suspended": lambda server, environment, job: server.update(suspend=True),
    "policy weights": lambda server, environment, job: server.update(weights={"uri": "s3://w/2", "version": 2}),
    "inline replicas": lambda server, environment, job: environment["models"]["judge"]["server"].update(replicas=3),
    "replicas": lambda server, environment, job: environment["resources"].update(replicas=3),
    "compute": lambda server, environment, job: environment["resources"].update(compute={"requests": {"cpu": "2"}}),
    "idle": lambda server, environment, job: environment.update(idlePolicy={"scaleToZeroAfterSeconds": 9}),
    "suspend": lambda server, environment, job: environment.update(suspend=True),
    "parallelism": lambda server, environment, job: job.update(parallelism=9, concurrency=7),
    "job suspended": lambda server, environment, job: job.update(suspend=True, activeDeadlineSeconds=9),
    "credentials": lambda server, environment, job: job["environments"][0]["dataset"].update(
        credentialsSecretRef={"name": "other"}, endpoint="http://elsewhere:9000"
    ),
    "output": lambda server, environment, job: job["output"].update(uri="s3://runs/y/", region="r"),
    "worker": lambda server, environment, job: job.update(worker={"compute": {"requests": {"cpu": "4"}}}),
    "failure policy": lambda server, environment, job: job.update(failurePolicy={"backoffLimit": 1}),
}

WHAT: dict[str, Callable[[Any, Any, Any], None]] = {
    "model revision": lambda server, environment, job: server["source"].update(revision="b"),
    "served name": lambda server, environment, job: server.update(servedModelName="other"),
    "engine arguments": lambda server, environment, job: server.update(engineArgs={"dtype": "float32"}),
    "judge": lambda server, environment, job: environment["models"].update(
        judge={"endpoint": {"baseUrl": "https://api.example.com/v1", "model": "j"}}
    ),
    "config": lambda server, environment, job: environment["resources"]["config"].update(level=2),
    "image": lambda server, environment, job: environment["resources"].update(image="mine:2"),
    "steps": lambda server, environment, job: environment.update(agent={"maxSteps": 3}),
    "deadline": lambda server, environment, job: environment.update(rolloutTimeoutSeconds=9),
    "dataset": lambda server, environment, job: job["environments"][0]["dataset"].update(limit=3),
    "rollouts": lambda server, environment, job: job.update(rolloutsPerTask=3),
    "sampling": lambda server, environment, job: job.update(sampling={"temperature": "0.5"}),
    "sharding": lambda server, environment, job: job.update(sharding={"tasksPerShard": 3}),
    "truncated": lambda server, environment, job: job.update(onTruncated="Skip"),
}


@pytest.mark.parametrize("change", PACE.values(), ids=PACE)
def test_the_pace_may_change(change: Callable[[Any, Any, Any], None]) -> None:
    assert digest(change) == digest()


@pytest.mark.parametrize("change", WHAT.values(), ids=WHAT)
def test_what_is_collected_may_not(change: Callable[[Any, Any, Any], None]) -> None:
    assert digest(change) != digest()


def test_an_upgrade_of_the_operator_changes_no_digest() -> None:
    newer = BuildContext(images=Images(agent="agent:2", worker="agent:2", resources="r:2"), render_revision="2")
    assert digest(context=newer) == digest()


def test_judge_weights_may_not_move() -> None:
    def announce(version: int) -> Callable[[Any, Any, Any], None]:
        weights = {"uri": "s3://w/", "version": version}
        return lambda server, environment, job: environment["models"]["judge"]["server"].update(weights=weights)

    assert digest(announce(1)) != digest(announce(2))


def test_an_environment_has_a_digest_of_its_own() -> None:
    def other_rows(server: Any, environment: Any, job: Any) -> None:
        job["environments"][0]["dataset"]["limit"] = 3

    run, other = rendered().runs["run"], rendered(other_rows).runs["run"]
    assert run.environments == other.environments
    assert run.digest != other.digest


def placed(image: str | None = None, worker: str | None = None) -> Callable[[Any, Any, Any], None]:
    def change(server: Any, environment: Any, job: Any) -> None:
        environment["agent"] = {"placement": "Worker"}
        environment["resources"] = {"placement": "Worker", **({"image": image} if image else {})}
        if worker:
            job["worker"] = {"image": worker}

    return change


@pytest.mark.parametrize(
    ("change", "image"),
    [
        (None, "kubegym-agent"),
        (placed(), "kubegym-resources"),
        (placed("mine:1"), "mine:1"),
        (placed(worker="mine:2"), "mine:2"),
        (placed("mine:1", "mine:1"), "mine:1"),
    ],
)
def test_workers_have_the_image_that_holds_what_runs_in_them(change: Any, image: str) -> None:
    made = rendered(change)
    assert made.runs["run"].worker_image == image
    for name in ("run", "run-finalise"):
        assert made.one("Job", name)["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_two_images_for_one_process_are_refused() -> None:
    with pytest.raises(WorkerImageConflict, match="mine:1, mine:2"):
        rendered(placed("mine:1", "mine:2"))


def test_a_run_goes_on_with_the_image_it_was_started_with() -> None:
    made = rendered()
    frozen = FrozenRun.from_config_map(made.one("ConfigMap", "run-run"))
    job = next(each for each in parsed(WORLD) if isinstance(each, RolloutJob))
    newer = BuildContext(images=Images(worker="agent:2"))
    _, second = build_worker_job(job, frozen, newer, number=2, workers=3, suspend=False)
    assert second["metadata"]["name"] == "run-2"
    assert second["spec"]["template"]["spec"]["containers"][0]["image"] == "kubegym-agent"
    assert (second["spec"]["completions"], second["spec"]["parallelism"]) == (3, 3)


@pytest.mark.parametrize("data", [{}, {"run.json": "{}"}, {"run.json": '{"environments": []}'}, {"run.json": "no"}])
def test_what_is_no_run_is_not_taken_for_one(data: dict[str, str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whichever it is
        FrozenRun.from_config_map({"metadata": {"annotations": {}}, "data": data})


def test_a_run_that_no_config_map_holds_is_refused() -> None:
    made = rendered()
    run = made.runs["run"]
    large = replace(run, document={**run.document, "padding": "x" * MAX_BYTES})
    job = next(each for each in parsed(WORLD) if isinstance(each, RolloutJob))
    with pytest.raises(BuildError, match="several jobs"):
        large.to_config_map(job, CONTEXT)


def test_with_a_queue_jobs_start_suspended_and_carry_it() -> None:
    def queue(server: Any, environment: Any, job: Any) -> None:
        job["queue"] = {"name": "cpu-lq", "priorityClass": "low"}

    for job in rendered(queue).of("Job"):
        assert job["spec"]["suspend"] is True
        labels = job["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "cpu-lq"
        assert labels["kueue.x-k8s.io/priority-class"] == "low"


def test_the_finaliser_has_the_run_s_identity_and_scheduling() -> None:
    def worker(server: Any, environment: Any, job: Any) -> None:
        template = {"spec": {"nodeSelector": {"pool": "cpu"}, "priorityClassName": "low"}}
        job["worker"] = {"serviceAccountName": "runner", "podTemplate": template}
        job["output"]["credentialsSecretRef"] = {"name": "out"}

    pod = rendered(worker).one("Job", "run-finalise")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "runner"
    assert pod["nodeSelector"] == {"pool": "cpu"}
    assert pod["priorityClassName"] == "low"
    assert {"name": "output", "secret": {"secretName": "out"}} in pod["volumes"]
