from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubegym.core.clock import SystemClock
from kubegym_operator.errors import Fenced, Refused
from kubegym_operator.kube.errors import Conflict, Forbidden, Invalid, TooManyRequests, Unavailable
from kubegym_operator.kube.events import EventRecorder
from kubegym_operator.kube.memory import MemoryKube
from kubegym_operator.kube.protocol import Kind, Object
from kubegym_operator.plan.actions import Delete, Event, KindName, Patch, Plan, Scale
from kubegym_operator.reconcile.cache import Cache
from kubegym_operator.reconcile.executor import Executor
from kubegym_operator.reconcile.limiter import TokenBucket
from kubegym_operator.reconcile.trim import SOLE_REPLICAS
from kubegym_operator.reconcile.watched import WATCHED
from testbed.kube_contract import CONFIG_MAP, DEPLOYMENT, JOB, WIDGET, WIDGET_INFO, deployment, named

EVENT = Kind("events.k8s.io/v1", "Event")


class Fence:
    """The lease's part."""

    def __init__(self) -> None:
        self.old = False

    def check(self) -> None:
        if self.old:
            raise Fenced("too old")


class Bench:
    """An executor with everything around it, and an owner."""

    def __init__(self, api: MemoryKube | None = None) -> None:
        self.api = api or MemoryKube([WIDGET_INFO])
        self.cache = Cache(kinds=WATCHED | {WIDGET})
        self.fence = Fence()
        events = EventRecorder(self.api, SystemClock(), "test")
        self.executor = Executor(self.api, self.cache, self.fence, TokenBucket(1000, 1000), events)
        self.owner: Object = {}

    async def __call__(self, **plan: Any) -> list[str]:
        """Execute a plan; the verbs and kinds that were written."""
        before = len(self.api.writes)
        await self.executor.execute(self.owner, Plan(**plan))
        return [f"{write.verb} {write.key.kind.kind}" for write in self.api.writes[before:]]

    def mine(self, obj: Object) -> Object:
        """The object as the owner's child."""
        metadata = self.owner["metadata"]
        reference = {
            "apiVersion": WIDGET.api_version,
            "kind": "Widget",
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
        }
        return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [reference]}}

    def see(self) -> None:
        """Let the cache follow the API server from now on, as the watches do."""
        self.api.watch(lambda event, obj: self.cache.remove(obj) if event == "DELETED" else self.cache.put(obj))


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    bench.owner = await bench.api.create(named(WIDGET, "space", "owner", spec={}))
    bench.cache.put(bench.owner)
    return bench


async def test_an_empty_plan_writes_nothing(bench: Bench) -> None:
    assert await bench() == []


async def test_children_first_then_the_status_then_events(bench: Bench) -> None:
    wrote = await bench(
        events=(Event("Normal", "Started", "it runs"),),
        status={"replicas": 1},
        creates=(bench.mine(named(JOB, "space", spec={})),),
        applies=(bench.mine(named(CONFIG_MAP, "space", data={"a": "1"})),),
    )
    assert wrote == ["apply ConfigMap", "create Job", "apply_status Widget", "create Event"]
    (event,) = await bench.api.list(EVENT, "space")
    assert event["reason"] == "Started"
    assert event["regarding"]["uid"] == bench.owner["metadata"]["uid"]


async def test_what_was_written_is_known_at_once(bench: Bench) -> None:
    await bench(applies=(bench.mine(named(CONFIG_MAP, "space", data={"a": "1"})),), status={"replicas": 3})
    known = bench.cache.get(CONFIG_MAP, "space", "one")
    assert known is not None
    assert known["data"] == {"a": "1"}
    owner = bench.cache.get(WIDGET, "space", "owner")
    assert owner is not None
    assert owner["status"] == {"replicas": 3}


async def test_what_exists_already_is_not_created_again(bench: Bench) -> None:
    job = bench.mine(named(JOB, "space", spec={"suspend": True}))
    assert await bench(creates=(job,)) == ["create Job"]
    assert await bench(creates=(job,)) == []
    restarted = Bench(bench.api)
    restarted.owner = bench.owner
    assert await restarted(creates=(job,)) == ["create Job"]  # the cache did not know it; the server did
    known = restarted.cache.get(JOB, "space", "one")
    assert known is not None
    assert known["spec"]["suspend"] is True


async def test_the_first_write_of_a_workload_sets_its_replicas_and_no_later_one_touches_them(bench: Bench) -> None:
    bench.see()
    assert await bench(creates=(bench.mine(deployment("space", replicas=3)),)) == ["apply Deployment"]
    known = bench.cache.get(DEPLOYMENT, "space", "one")
    assert known is not None
    assert known["metadata"][SOLE_REPLICAS] is True
    changed = bench.mine(deployment("space", paused=True))
    assert await bench(applies=(changed,)) == ["apply Deployment", "apply Deployment"]
    live = await bench.api.get(DEPLOYMENT, "space", "one")
    assert live is not None
    assert (live["spec"]["replicas"], live["spec"]["paused"]) == (3, True)
    assert await bench(applies=(bench.mine(deployment("space", paused=False)),)) == ["apply Deployment"]


async def test_a_scaled_workload_needs_no_second_owner_of_its_replicas(bench: Bench) -> None:
    bench.see()
    await bench(creates=(bench.mine(deployment("space", replicas=1)),))
    assert await bench(scales=(Scale(KindName(*DEPLOYMENT), "space", "one", 5),)) == ["scale Deployment"]
    assert await bench(applies=(bench.mine(deployment("space", paused=True)),)) == ["apply Deployment"]
    live = await bench.api.get(DEPLOYMENT, "space", "one")
    assert live is not None
    assert live["spec"]["replicas"] == 5


async def test_replicas_that_changed_since_they_were_seen_are_not_put_back(bench: Bench) -> None:
    await bench(creates=(bench.mine(deployment("space", replicas=1)),))
    await bench.api.scale(DEPLOYMENT, "space", "one", 7)  # and the watch has not told yet
    with pytest.raises(Conflict):
        await bench(applies=(bench.mine(deployment("space", paused=True)),))
    live = await bench.api.get(DEPLOYMENT, "space", "one")
    assert live is not None
    assert live["spec"]["replicas"] == 7


async def test_a_field_that_is_left_out_later_goes_although_the_object_was_created_first(bench: Bench) -> None:
    bench.see()
    await bench(creates=(bench.mine(deployment("space", replicas=1, paused=True)),))
    await bench(applies=(bench.mine(deployment("space")),))
    live = await bench.api.get(DEPLOYMENT, "space", "one")
    assert live is not None
    assert "paused" not in live["spec"]
    assert live["spec"]["replicas"] == 1


async def test_what_the_server_does_not_keep_is_applied_once(bench: Bench) -> None:
    # Applied in status, which the server ignores here: the answer lacks it every time.
    stubborn = bench.mine(named(WIDGET, "space", "child", spec={"a": 1}, status={"replicas": 1}))
    assert await bench(applies=(stubborn,)) == ["apply Widget"]
    assert await bench(applies=(stubborn,)) == []
    bench.see()
    await bench.api.patch(WIDGET, "space", "child", {"spec": {"a": 2}})
    assert await bench(applies=(stubborn,)) == ["apply Widget"]


async def test_a_status_that_the_server_changes_is_written_once(bench: Bench) -> None:
    await bench.api.apply_status(named(WIDGET, "space", "owner", status={"theirs": 1}), manager="another")
    assert await bench(status={"replicas": 1}) == ["apply_status Widget"]
    assert await bench(status={"replicas": 1}) == []
    assert await bench(status={"replicas": 2}) == ["apply_status Widget"]


async def test_patches_scales_and_deletes_of_what_is_gone_are_no_failure(bench: Bench) -> None:
    job, kind = KindName(*JOB), KindName(*DEPLOYMENT)
    wrote = await bench(
        patches=(Patch(job, "space", "gone", {"spec": {"suspend": True}}),),
        scales=(Scale(kind, "space", "gone", 1),),
        deletes=(Delete(job, "space", "gone"),),
    )
    assert wrote == ["patch Job", "scale Deployment", "delete Job"]


async def test_only_the_object_that_was_meant_is_deleted(bench: Bench) -> None:
    made = await bench.api.create(named(JOB, "space", spec={}))
    await bench(deletes=(Delete(KindName(*JOB), "space", "one", uid="another"),))
    assert await bench.api.get(JOB, "space", "one") is not None
    await bench(deletes=(Delete(KindName(*JOB), "space", "one", uid=made["metadata"]["uid"]),))
    assert await bench.api.get(JOB, "space", "one") is None


async def test_the_status_of_an_object_that_is_gone_is_nobody_s_business(bench: Bench) -> None:
    await bench.api.delete(WIDGET, "space", "owner")
    assert await bench(status={"replicas": 1}) == ["apply_status Widget"]


async def test_a_refused_child_holds_the_status_back_and_no_other_child(bench: Bench) -> None:
    bench.api.fail(Forbidden("exceeded quota: pods", status=403), verb="apply", kind="ConfigMap")
    with pytest.raises(Refused) as caught:
        await bench(
            applies=(bench.mine(named(CONFIG_MAP, "space")),),
            creates=(bench.mine(named(JOB, "space", spec={})),),
            status={"replicas": 1},
        )
    (refusal,) = caught.value.refusals
    assert (refusal.kind, refusal.name, refusal.error.reason) == ("ConfigMap", "one", "Forbidden")
    assert caught.value.reason == "Forbidden"
    assert await bench.api.get(JOB, "space", "one") is not None
    assert "apply_status" not in {write.verb for write in bench.api.writes}


async def test_trouble_that_passes_ends_the_run(bench: Bench) -> None:
    bench.api.fail(Unavailable("away"), verb="apply")
    with pytest.raises(Unavailable):
        await bench(applies=(bench.mine(named(CONFIG_MAP, "space")),), status={"replicas": 1})
    assert [write.verb for write in bench.api.writes[1:]] == ["apply"]


@pytest.mark.looptime
async def test_a_busy_server_gets_the_time_it_asks_for(bench: Bench) -> None:
    bench.api.fail(TooManyRequests("busy", retry_after=20.0), verb="apply")
    with pytest.raises(TooManyRequests):
        await bench(applies=(bench.mine(named(CONFIG_MAP, "space")),))
    await bench(status={"replicas": 1})
    assert asyncio.get_running_loop().time() == pytest.approx(20.0, abs=0.1)


async def test_with_an_old_lease_nothing_is_written(bench: Bench) -> None:
    bench.fence.old = True
    before = len(bench.api.writes)
    plans: list[dict[str, Any]] = [
        {"applies": (bench.mine(named(CONFIG_MAP, "space")),)},
        {"creates": (bench.mine(named(JOB, "space", spec={})),)},
        {"patches": (Patch(KindName(*JOB), "space", "one", {}),)},
        {"scales": (Scale(KindName(*DEPLOYMENT), "space", "one", 1),)},
        {"deletes": (Delete(KindName(*JOB), "space", "one"),)},
        {"status": {"replicas": 1}},
        {"events": (Event("Normal", "A", "b"),)},
    ]
    for plan in plans:
        with pytest.raises(Fenced):
            await bench(**plan)
    assert len(bench.api.writes) == before


@pytest.mark.parametrize("how", ["applies", "creates"])
@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        (None, Refused, "is not ours"),
        ({"kind": "Deployment", "name": "x", "uid": "other"}, Refused, "belongs to Deployment x"),
        ({"kind": "Widget", "name": "owner", "uid": "earlier"}, Conflict, "earlier Widget"),
    ],
)
@pytest.mark.parametrize("seen", [True, False])
async def test_what_is_somebody_else_s_is_left_alone(
    bench: Bench, how: str, reference: Object | None, error: type[Exception], words: str, seen: bool
) -> None:
    theirs = named(CONFIG_MAP, "space", data={"theirs": "1"})
    if reference is not None:
        owner = {"apiVersion": "v1", "controller": True, **reference}
        theirs["metadata"]["ownerReferences"] = [owner]
    if seen:
        bench.see()
    await _force(bench.api, theirs)
    with pytest.raises(error, match=words):
        await bench(**{how: (bench.mine(named(CONFIG_MAP, "space", data={"ours": "2"})),)})
    live = await bench.api.get(CONFIG_MAP, "space", "one")
    assert live is not None
    assert live["data"] == {"theirs": "1"}


async def _force(api: MemoryKube, obj: Object) -> None:
    """Create an object whose owner is not there, which the garbage collector would take at once."""
    references = obj["metadata"].pop("ownerReferences", None)
    await api.create(obj)
    if references is not None:
        await api.patch(CONFIG_MAP, "space", "one", {"metadata": {"ownerReferences": references}})


async def test_a_child_that_is_being_deleted_is_waited_for(bench: Bench) -> None:
    bench.see()
    await bench(creates=(bench.mine(named(JOB, "space", spec={}, metadata={"finalizers": ["wait"]})),))
    await bench.api.delete(JOB, "space", "one")
    with pytest.raises(Conflict):
        await bench(creates=(bench.mine(named(JOB, "space", spec={})),))


async def test_events_say_the_same_once_and_fail_nothing(bench: Bench) -> None:
    same = Event("Warning", "Stalled", "no GPU")
    assert await bench(events=(same, same, Event("Warning", "Stalled", "no CPU"))) == ["create Event"] * 2
    assert await bench(events=(same,)) == []
    bench.api.fail(Invalid("no"), verb="create", kind="Event")
    assert await bench(events=(Event("Normal", "Serving", "it serves"),)) == ["create Event"]


async def test_a_lost_answer_is_made_good_the_next_time(bench: Bench) -> None:
    bench.see()
    job = bench.mine(named(JOB, "space", spec={}))
    bench.api.fail(Unavailable("the connection broke"), verb="create", after=True)
    with pytest.raises(Unavailable):
        await bench(creates=(job,))
    assert await bench(creates=(job,)) == []
    assert len(await bench.api.list(JOB, "space")) == 1
