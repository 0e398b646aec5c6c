"""Which replica is asked, and when one that failed is asked again."""

from __future__ import annotations

import asyncio
import random

import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.http.replicas import Replica, Replicas


def replicas(count: int) -> Replicas:
    return Replicas([f"http://127.0.0.1:{port}" for port in range(1, count + 1)], rng=random.Random(0))


def out(group: Replicas, replica: Replica) -> None:
    for _ in range(3):
        group.failed(replica)


async def test_the_fewest_users_first_and_equals_in_turn() -> None:
    group = replicas(3)
    taken = [group.take() for _ in range(7)]
    assert sorted(replica.users for replica in group.all) == [2, 2, 3]
    assert {replica.url.shown for replica in taken[:3]} == {replica.url.shown for replica in group.all}
    for replica in taken[1:]:
        group.give(replica)
    assert group.take() is not taken[0]


async def test_one_that_was_tried_is_avoided_while_there_are_others() -> None:
    group = replicas(2)
    first = group.take()
    second = group.take([first])
    assert second is not first
    assert group.take([first, second]) in (first, second)


@pytest.mark.looptime
async def test_three_failures_put_it_out_and_one_user_tries_it_again() -> None:
    group = replicas(2)
    bad, good = group.all
    group.failed(bad)
    group.failed(bad)
    bad.heal()
    group.failed(bad)
    assert {group.take(), group.take()} == {bad, good}  # not three in a row
    group.give(bad)
    group.give(good)
    out(group, bad)
    assert [group.take() for _ in range(4)] == [good] * 4
    await asyncio.sleep(6.1)
    probe = group.take()
    assert probe is bad
    assert [group.take() for _ in range(3)] == [good] * 3  # one at a time
    group.failed(probe)
    group.give(probe)
    assert group.take() is good
    await asyncio.sleep(6.1)
    group.take().heal()
    assert [group.take() for _ in range(3)] == [bad] * 3


@pytest.mark.looptime
async def test_a_probe_that_asked_nothing_leaves_the_question_open() -> None:
    group = replicas(2)
    bad, good = group.all
    group.take()
    out(group, bad)
    for replica in group.all:
        while replica.users:
            group.give(replica)
    assert group.take() is good
    await asyncio.sleep(6.1)
    assert group.take() is bad
    group.give(bad)
    assert group.take() is bad


@pytest.mark.looptime
async def test_with_all_out_the_next_to_come_back_is_asked() -> None:
    group = replicas(2)
    first, second = group.all
    out(group, second)
    await asyncio.sleep(2)
    out(group, first)
    assert not group.any_usable
    assert group.take() is second


async def test_equal_urls_are_one_and_none_is_refused() -> None:
    assert len(Replicas(["http://h:1", "http://h:1"])) == 1
    with pytest.raises(InvalidSpec, match="at least one URL"):
        Replicas([])


def test_paths_are_made_once_and_not_without_end() -> None:
    replica = replicas(1).all[0]
    assert replica.at("verify") is replica.at("verify")
    assert replica.at("verify").target == b"/verify"
    for number in range(1000):
        replica.at(f"tool{number}")
    assert len(replica._paths) <= 64
