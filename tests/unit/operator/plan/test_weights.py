"""How announced weights come to the replicas of a server, decided from what these say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubegym_operator.api import ModelServer, parse
from kubegym_operator.build.context import BuildContext
from kubegym_operator.kube.protocol import Object
from kubegym_operator.plan.snapshot import Told
from kubegym_operator.plan.times import rfc3339
from kubegym_operator.plan.weights import RESTART_AFTER, Exchange, plan_exchange
from kubegym_operator.reconcile.watched import MODEL_SERVER
from testbed.operator_world import CONFIG_MAP, DEPLOYMENT, EVENT, NAMESPACE, POD, World

pytestmark = pytest.mark.unit

NOW = 1_800_000_000.0
CONTEXT = BuildContext(control_key="k")
SOURCE = {"uri": "pvc://models/base"}
OLD, NEW = Told(6), Told(7)
BUSY = Told(6, phase="loading")
CORRUPT = Told(6, failed=7, reason="WeightsCorrupt", message="differs")
MISSING = Told(6, failed=7, reason="CanaryMissing", message="no canary")
UNFETCHED = Told(6, failed=7, reason="FetchFailed", message="503", retryable=True)
OUT = Told(6, failed=7, reason="WeightsCorrupt", message="differs", restart=True)


def server(**weights: Any) -> ModelServer:
    spec = {"engine": "vllm", "source": SOURCE, "weights": {"uri": "pvc://models/7", "version": 7, **weights}}
    metadata = {"name": "m", "namespace": NAMESPACE, "uid": "u"}
    made = parse({"apiVersion": "kubegym.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": spec})
    assert isinstance(made, ModelServer)
    return made


def pod(index: int, *, ready: bool = True, age: float = 9999.0) -> Object:
    metadata = {
        "name": f"m-{index}",
        "namespace": NAMESPACE,
        "creationTimestamp": rfc3339(NOW - age),
        "uid": f"{index}",
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": "Running", "podIP": f"10.0.0.{index}", "conditions": conditions}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status}


def decided(*told: Told | None, out: tuple[int, ...] = (), age: float = 9999.0, **weights: Any) -> Exchange:
    """What is done where the replicas say this; those of ``out`` are not ready."""
    pods = [pod(index, ready=index not in out, age=age) for index in range(len(told))]
    said = {f"10.0.0.{index}": one for index, one in enumerate(told) if one is not None}
    return plan_exchange(server(**weights), pods, said, CONTEXT, NOW)


def ordered(exchange: Exchange) -> list[int]:
    return [int(order.address.rpartition(".")[2]) for order in exchange.orders]


@pytest.mark.parametrize(
    ("told", "out", "orders", "version"),
    [
        pytest.param((NEW, NEW), (), [], 7, id="all serve it"),
        pytest.param((OLD, OLD, OLD), (), [0], 6, id="the first alone"),
        pytest.param((BUSY, OLD, OLD), (0,), [], 6, id="which is waited for"),
        pytest.param((NEW, OLD, OLD), (), [1], 6, id="then the next"),
        pytest.param((NEW, *[OLD] * 7), (), [1, 2], 6, id="then a quarter at a time"),
        pytest.param((NEW, BUSY, *[OLD] * 6), (1,), [2], 6, id="those that are at it count"),
        pytest.param((OLD,), (), [0], 6, id="one alone has nobody to stand in"),
        pytest.param((OLD, OLD), (0,), [0], 6, id="one that serves nobody goes first"),
        pytest.param((OLD, None), (1,), [], 6, id="the last that serves stays until another does"),
        pytest.param((NEW, None), (1,), [], 7, id="one that starts begins with it"),
        pytest.param((Told(None), Told(None)), (), [0], None, id="weights without a version"),
        pytest.param((NEW, Told(None)), (), [1], None, id="some without"),
        pytest.param((CORRUPT, OLD, OLD), (), [1], 6, id="a second one tries"),
        pytest.param((CORRUPT, CORRUPT, OLD), (), [], 6, id="no third one does"),
        pytest.param((MISSING, OLD, OLD), (), [], 6, id="nor a second where it is the weights' own fault"),
        pytest.param((UNFETCHED, OLD), (), [0], 6, id="a store that does not answer is asked again"),
    ],
)
def test_who_is_told(told: tuple[Told | None, ...], out: tuple[int, ...], orders: list[int], version: int) -> None:
    exchange = decided(*told, out=out)
    assert (ordered(exchange), exchange.version, exchange.deletes) == (orders, version, ())


def test_an_order_is_what_the_spec_says_with_the_servers_token() -> None:
    (order,) = decided(OLD, onUpdate="Abort").orders
    assert (order.path, order.body["version"], order.body["onUpdate"]) == ("/weights", 7, "Abort")
    assert order.body["uri"] == "pvc://models/7"
    assert order.token not in repr(order)
    (other,) = plan_exchange(server(), [pod(0)], {"10.0.0.0": OLD}, BuildContext(control_key="other"), NOW).orders
    assert other.token != order.token


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ((CORRUPT, CORRUPT, OLD), "WeightsCorrupt"),
        ((CORRUPT,), "WeightsCorrupt"),
        ((MISSING, OLD), "CanaryMissing"),
        ((CORRUPT, OLD), None),
        ((CORRUPT, NEW), None),
        ((UNFETCHED, UNFETCHED), None),
    ],
)
def test_when_it_is_the_weights(told: tuple[Told, ...], reason: str | None) -> None:
    trouble = decided(*told).trouble
    assert (trouble.reason if trouble is not None else None) == reason
    if trouble is not None:
        assert "version 7" in trouble.message


@pytest.mark.parametrize(
    ("told", "age", "deleted"),
    [
        pytest.param((NEW, CORRUPT), 9999.0, "m-1", id="others prove the weights: the fault is its own"),
        pytest.param((CORRUPT, CORRUPT), 9999.0, None, id="nobody does"),
        pytest.param((OUT, OLD), 9999.0, "m-0", id="it serves nobody and asks"),
        pytest.param((OUT, OLD), RESTART_AFTER - 1, None, id="a young one does not cycle"),
        pytest.param((NEW, UNFETCHED), 9999.0, None, id="it may come"),
        pytest.param((NEW, Told(7, failed=6, reason="x", restart=True)), 9999.0, None, id="failed at an older version"),
        pytest.param((NEW, Told(7, restart=True)), 9999.0, "m-1", id="its engine lost them"),
    ],
)
def test_whose_pod_is_replaced(told: tuple[Told, ...], age: float, deleted: str | None) -> None:
    exchange = decided(*told, age=age)
    assert [one.name for one in exchange.deletes] == ([] if deleted is None else [deleted])


def test_what_is_not_done_in_place_is_said() -> None:
    assert decided(OLD, onUpdate="Continue").trouble is None
    exchange = decided(OLD, onUpdate="Continue", kind="Adapter")
    assert exchange.trouble is not None
    assert (exchange.trouble.reason, exchange.orders) == ("WeightsUnsupported", ())


# Lives over the API server's twin


def manifest(version: int | None = None, **spec: Any) -> Object:
    weights = {} if version is None else {"weights": {"uri": f"pvc://models/{version}", "version": version}}
    body = {"engine": "vllm", "source": SOURCE, "replicas": 3, **weights, **spec}
    return {"apiVersion": "kubegym.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "m"}, "spec": body}


async def announced(world: World) -> Object:
    found: Object = json.loads((await world.get(CONFIG_MAP, "m-weights"))["data"]["announced.json"])
    return found


def obey(world: World, told: Told) -> None:
    """The replicas that were ordered do so."""
    for order in world.answers.orders:
        world.answers.told[order.address] = told
    world.answers.orders.clear()


async def served() -> World:
    """Three replicas that serve version 6."""
    world = World()
    await world.apply(manifest(6))
    await world.live()
    world.answers.told = {f"10.0.0.{index}": Told(6) for index in (1, 2, 3)}
    await world.pass_time(3)
    return world


async def test_a_new_version_goes_from_replica_to_replica_and_restarts_nothing() -> None:
    world = await served()
    status = (await world.get(MODEL_SERVER, "m"))["status"]
    assert (status["policyVersion"], status["targetPolicyVersion"]) == (6, 6)
    template = (await world.get(DEPLOYMENT, "m"))["spec"]["template"]
    await world.apply(manifest(7))
    await world.live()
    assert (await announced(world))["good"]["version"] == 6
    for left in (3, 2, 1):
        assert len({order.address for order in world.answers.orders}) == 1, "an order may be said again, to the same"
        assert await world.condition(MODEL_SERVER, "m", "Ready") == ("False", "UpdatingWeights")
        assert await world.condition(MODEL_SERVER, "m", "Serving") == ("True", "Available")
        assert f"{left} of 3" in await world.message(MODEL_SERVER, "m", "Ready")
        assert (await world.get(MODEL_SERVER, "m"))["status"]["policyVersion"] == 6
        obey(world, Told(7))
        await world.pass_time(3)
    assert world.answers.orders == []
    assert (await world.get(MODEL_SERVER, "m"))["status"]["policyVersion"] == 7
    assert await world.condition(MODEL_SERVER, "m", "Ready") == ("True", "Available")
    assert (await world.get(DEPLOYMENT, "m"))["spec"]["template"] == template
    events = [event["reason"] for event in await world.kube.list(EVENT, NAMESPACE)]
    assert events.count("WeightsUpdated") == 2  # 6, and 7
    world.wrote.clear()
    await world.pass_time(120)
    assert world.wrote == [], "nothing is written while nothing changes"


async def test_weights_that_do_not_prove_stop_at_the_second_replica_and_are_told() -> None:
    world = await served()
    await world.apply(manifest(7))
    await world.live()
    for _ in range(2):
        obey(world, CORRUPT)
        await world.pass_time(3)
    assert world.answers.orders == []
    assert await world.condition(MODEL_SERVER, "m", "Stalled") == ("True", "WeightsCorrupt")
    assert await world.condition(MODEL_SERVER, "m", "Serving") == ("True", "Available")
    assert len(await world.kube.list(POD, NAMESPACE)) == 3
    events = [event for event in await world.kube.list(EVENT, NAMESPACE) if event["reason"] == "WeightsCorrupt"]
    assert [event["type"] for event in events] == ["Warning"]
    await world.apply(manifest(8))
    await world.live()
    assert await world.condition(MODEL_SERVER, "m", "Stalled") == ("False", "NotStalled")
    assert ((await announced(world))["wanted"]["version"], (await announced(world))["good"]["version"]) == (8, 6)
    assert {order.body["version"] for order in world.answers.orders} == {8}


async def test_recreate_and_engines_of_others_start_new_pods_with_the_version() -> None:
    for spec in ({"weights": {"uri": "s3://w/7/", "version": 7, "onUpdate": "Recreate"}}, {"engine": "custom"}):
        world = World()
        custom: Object = {"podTemplate": {"spec": {"containers": [{"name": "engine", "image": "e"}]}}}
        await world.apply(manifest(7, **spec, **(custom if "engine" in spec else {})))
        await world.live()
        template = (await world.get(DEPLOYMENT, "m"))["spec"]["template"]["spec"]
        (sidecar,) = [one for one in template["initContainers"] if one["name"] == "model-server"]
        assert "--policy-version=7" in sidecar["args"]
        assert world.answers.orders == []
        assert not await world.exists(CONFIG_MAP, "m-weights")
