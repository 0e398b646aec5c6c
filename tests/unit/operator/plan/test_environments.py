"""Lives of environments over the API server's twin, and what holds for all lives."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from kubegym_operator.kube.protocol import Object
from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.watched import GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB
from testbed.operator_manifests import DONE, environment, rollout_job
from testbed.operator_world import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    SERVICE,
    World,
    run_condition,
    running,
    with_revision,
)

ROOT = Path(__file__).resolve().parents[4]
ARITHMETIC: list[Object] = list(yaml.safe_load_all((ROOT / "environments/arithmetic/environment.yaml").read_text()))
WORDS = json.dumps(DONE)


async def test_nothing_is_written_while_nothing_changes() -> None:
    world = await running()
    for _ in range(3):
        world.wrote.clear()
        await world.pass_time(40)
        assert world.wrote == []


async def test_a_restart_changes_nothing_at_any_moment() -> None:
    world = World()
    await world.apply(environment(), rollout_job())
    for _ in range(6):
        for _ in range(2):  # words about waiting are written once in 30 s
            await world.settle()
            world.clock.at += 31
        await world.settle()
        assert await world.restart() == []
        await world.kubelet()
    for job, words in (("run", ""), ("run-finalise", WORDS)):
        await world.finish_job(job, words=words)
        await world.live()
        await world.pass_time(31)
        assert await world.restart() == []
    assert await run_condition(world, "Complete") == ("True", "Completed")


async def test_few_writes_until_an_environment_serves() -> None:
    world = World()
    await world.apply(environment())
    await world.live()
    statuses = [write.key.kind for write in world.wrote if write.verb == "apply_status"]
    assert len(statuses) <= 5, "those of its ModelServer among them"
    children = [write for write in world.wrote if write.verb in ("apply", "create") and write.key.kind != EVENT]
    assert len(children) == len({write.key for write in children}), "each child is written once"


async def test_nothing_waits_for_a_model_server_of_its_own_to_be_there() -> None:
    world = World()
    await world.apply(environment())
    math = Key("GymEnvironment", NAMESPACE, "math")
    await world.reconcile(math)
    made = {write.key.name for write in world.wrote if write.key.kind in (DEPLOYMENT, MODEL_SERVER)}
    assert made == {"math-agent", "math-resources", "math-policy"}
    assert await world.condition(GYM_ENVIRONMENT, "math", "ModelReady") == ("False", "ModelNotReady")
    world.wrote.clear()
    await world.reconcile(math)
    assert world.wrote == [], "and nothing is new when it is"


async def test_idle_is_ready_and_a_job_wakes_it() -> None:
    world = World()
    await world.apply(environment(idlePolicy={"scaleToZeroAfterSeconds": 600}))
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "Ready") == ("True", "Available")
    await world.pass_time(600)
    assert await world.condition(GYM_ENVIRONMENT, "math", "Ready") == ("True", "Idle")
    assert await world.condition(GYM_ENVIRONMENT, "math", "Serving") == ("False", "Idle")
    assert await world.condition(MODEL_SERVER, "math-policy", "Ready") == ("True", "Idle")
    for name in ("math-agent", "math-resources", "math-policy"):
        assert (await world.get(DEPLOYMENT, name))["spec"]["replicas"] == 0
    await world.apply(rollout_job())
    await world.live()
    await world.fail_job("run-finalise", words='{"reason": "IncompleteRun", "message": "no plan"}')
    await world.live()
    assert await run_condition(world, "Progressing") == ("True", "Collecting")
    await world.pass_time(3600)
    assert await world.condition(GYM_ENVIRONMENT, "math", "Serving") == ("True", "Available"), "a job keeps it awake"


async def test_suspending_an_environment_scales_all_of_it_and_keeps_the_objects() -> None:
    world = World()
    await world.apply(environment())
    await world.live()
    await world.edit(GYM_ENVIRONMENT, "math", {"suspend": True})
    await world.live()
    for name in ("math-agent", "math-resources", "math-policy"):
        assert (await world.get(DEPLOYMENT, name))["spec"]["replicas"] == 0
    assert await world.condition(GYM_ENVIRONMENT, "math", "Ready") == ("True", "Suspended")
    assert await world.condition(MODEL_SERVER, "math-policy", "Suspended") == ("True", "Suspended")
    await world.edit(GYM_ENVIRONMENT, "math", {"suspend": False})
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "Serving") == ("True", "Available")


async def test_a_newer_operator_restarts_nothing_until_it_is_told_to() -> None:
    world = await running()
    newer = with_revision(world.context, "2")
    before = {kind: await world.kube.list(kind) for kind in (DEPLOYMENT, JOB)}
    writes = await world.restart(newer)
    assert {w.key.kind for w in writes} <= {GYM_ENVIRONMENT, MODEL_SERVER, ROLLOUT_JOB}
    await world.live()
    assert {kind: await world.kube.list(kind) for kind in (DEPLOYMENT, JOB)} == before
    assert await world.condition(GYM_ENVIRONMENT, "math", "RenderOutdated") == ("True", "Outdated")
    assert await world.condition(GYM_ENVIRONMENT, "math", "Serving") == ("True", "Available")
    await world.kube.patch(
        GYM_ENVIRONMENT, NAMESPACE, "math", {"metadata": {"annotations": {"kubegym.dev/render": "latest"}}}
    )
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "RenderOutdated") == ("False", "UpToDate")
    agent = await world.get(DEPLOYMENT, "math-agent")
    assert agent["metadata"]["annotations"]["kubegym.dev/render-revision"] == "2"


async def test_an_edited_config_map_of_the_user_rolls_the_pods_within_a_minute() -> None:
    world = World()
    template = {"spec": {"volumes": [{"name": "mine", "configMap": {"name": "mine"}}]}}
    server = {"server": {"engine": "embedded", "podTemplate": template}}
    await world.apply(environment(models={"policy": server}, agent={"podTemplate": template}))
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}

    async def digests() -> list[str | None]:
        found = [await world.get(DEPLOYMENT, name) for name in ("math-agent", "math-policy")]
        metadata = [one["spec"]["template"]["metadata"] for one in found]
        return [(one.get("annotations") or {}).get("kubegym.dev/config-digest") for one in metadata]

    await world.live()
    seen = [await digests()]
    for data in ({"a": "1"}, {"a": "2"}):
        await world.apply({**mine, "data": data})
        await world.live()
        await world.pass_time(60)
        seen.append(await digests())
    assert len({one[0] for one in seen}) == len({one[1] for one in seen}) == len(seen)
    assert await world.restart(world.context) == []


async def test_an_older_rendering_that_was_edited_is_put_back_as_it_was() -> None:
    world = await running()
    before = await world.get(DEPLOYMENT, "math-agent")
    await world.restart(with_revision(world.context, "2"))
    await world.live()
    template = {"spec": {"terminationGracePeriodSeconds": 1}}
    await world.kube.patch(DEPLOYMENT, NAMESPACE, "math-agent", {"spec": {"template": template}})
    service = await world.get(SERVICE, "math-agent")
    await world.kube.patch(SERVICE, NAMESPACE, "math-agent", {"spec": {"ports": None}})
    await world.live()
    after = await world.get(DEPLOYMENT, "math-agent")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"], "still the older rendering"
    assert (await world.get(SERVICE, "math-agent"))["spec"] == service["spec"]
    assert await world.condition(GYM_ENVIRONMENT, "math", "RenderOutdated") == ("True", "Outdated")
    assert await world.restart(world.context) == []


async def test_children_that_were_edited_or_deleted_by_hand_are_repaired() -> None:
    world = await running()
    service = await world.get(SERVICE, "math-agent")
    edited = [{**port, "targetPort": 1} for port in service["spec"]["ports"]]
    await world.kube.patch(SERVICE, NAMESPACE, "math-agent", {"spec": {"ports": edited}})
    await world.kube.delete(DEPLOYMENT, NAMESPACE, "math-agent")
    await world.kube.delete(CONFIG_MAP, NAMESPACE, "run-run")
    await world.live()
    assert (await world.get(SERVICE, "math-agent"))["spec"]["ports"] == service["spec"]["ports"]
    assert await world.exists(DEPLOYMENT, "math-agent")
    assert await world.exists(CONFIG_MAP, "run-run")
    assert await run_condition(world, "Failed") == ("False", "NotFinished")


async def test_replicas_of_others_are_left_alone() -> None:
    world = World()
    await world.apply(environment())
    await world.live()
    await world.kube.scale(DEPLOYMENT, NAMESPACE, "math-agent", 4)
    await world.kube.scale(MODEL_SERVER, NAMESPACE, "math-policy", 2)
    await world.live()
    await world.edit(GYM_ENVIRONMENT, "math", {"agent": {"maxSteps": 3}})
    await world.live()
    assert (await world.get(DEPLOYMENT, "math-agent"))["spec"]["replicas"] == 4
    assert (await world.get(DEPLOYMENT, "math-policy"))["spec"]["replicas"] == 2
    await world.edit(GYM_ENVIRONMENT, "math", {"agent": {"maxSteps": 3, "replicas": 2}})
    await world.live()
    assert (await world.get(DEPLOYMENT, "math-agent"))["spec"]["replicas"] == 2


async def test_a_name_that_is_somebody_elses() -> None:
    world = World()
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "math-environment"}, "data": {"mine": "yes"}}
    await world.apply(mine, environment())
    await world.live()
    assert await world.condition(GYM_ENVIRONMENT, "math", "Stalled") == ("True", "NameInUse")
    assert (await world.get(CONFIG_MAP, "math-environment"))["data"] == {"mine": "yes"}


async def test_deleting_takes_the_children_along() -> None:
    world = await running()
    await world.kube.delete(ROLLOUT_JOB, NAMESPACE, "run")
    await world.kube.delete(GYM_ENVIRONMENT, NAMESPACE, "math")
    await world.live()
    for kind in (DEPLOYMENT, JOB, CONFIG_MAP, MODEL_SERVER, SERVICE, POD):
        assert await world.kube.list(kind) == []
