"""What the twin does beside the contract: faults, and what tests see of it."""

from __future__ import annotations

import pytest

from kubegym_operator.kube.errors import Gone, TooManyRequests, Unavailable
from kubegym_operator.kube.memory import MemoryKube, Write
from kubegym_operator.kube.protocol import ObjectKey
from testbed.kube_contract import CONFIG_MAP, JOB, named


async def test_faults_hit_what_they_name_and_as_often() -> None:
    api = MemoryKube()
    api.fail(TooManyRequests("busy"), verb="create", kind="Job", times=2)
    await api.create(named(CONFIG_MAP, "space"))
    for _ in range(2):
        with pytest.raises(TooManyRequests):
            await api.create(named(JOB, "space"))
    await api.create(named(JOB, "space"))


async def test_a_lost_answer_leaves_the_write() -> None:
    api = MemoryKube()
    api.fail(Gone("lost"), after=True)
    with pytest.raises(Gone):
        await api.create(named(CONFIG_MAP, "space"))
    assert await api.get(CONFIG_MAP, "space", "one") is not None


async def test_a_server_that_is_away_answers_nothing_and_forgets_nothing() -> None:
    api = MemoryKube()
    await api.create(named(CONFIG_MAP, "space"))
    api.down = True
    with pytest.raises(Unavailable):
        await api.get(CONFIG_MAP, "space", "one")
    with pytest.raises(Unavailable):
        await api.serves(JOB)
    api.down = False
    assert await api.get(CONFIG_MAP, "space", "one") is not None


async def test_every_write_is_counted_and_no_read() -> None:
    api = MemoryKube()
    await api.create(named(CONFIG_MAP, "space"))
    await api.get(CONFIG_MAP, "space", "one")
    await api.list(CONFIG_MAP)
    await api.apply(named(CONFIG_MAP, "space"), manager="kubegym", dry_run=True)
    await api.delete(CONFIG_MAP, "space", "none")
    key = ObjectKey(CONFIG_MAP, "space", "one")
    assert api.writes == [Write("create", key), Write("delete", key._replace(name="none"))]


async def test_watchers_hear_changes_and_no_write_without_one() -> None:
    api = MemoryKube()
    heard: list[str] = []
    stop = api.watch(lambda event, obj: heard.append(event))
    await api.apply(named(CONFIG_MAP, "space", data={"a": "1"}), manager="kubegym")
    await api.apply(named(CONFIG_MAP, "space", data={"a": "1"}), manager="kubegym")
    await api.patch(CONFIG_MAP, "space", "one", {"data": {"a": "2"}})
    await api.delete(CONFIG_MAP, "space", "one")
    stop()
    await api.create(named(CONFIG_MAP, "space"))
    assert heard == ["ADDED", "MODIFIED", "DELETED"]


async def test_who_owns_a_field_can_be_asked() -> None:
    api = MemoryKube()
    await api.apply(named(CONFIG_MAP, "space", data={"a": "1"}), manager="kubegym")
    await api.apply(named(CONFIG_MAP, "space", data={"a": "1"}), manager="another")
    assert api.managers(CONFIG_MAP, "space", "one", ("data", "a")) == {"kubegym", "another"}
    await api.patch(CONFIG_MAP, "space", "one", {"data": {"a": "2"}})
    assert api.managers(CONFIG_MAP, "space", "one", ("data", "a")) == {"patch"}
