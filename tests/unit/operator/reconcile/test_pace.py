from __future__ import annotations

from kubegym_operator.reconcile.keys import Key
from kubegym_operator.reconcile.pace import Pace


def key(number: int) -> Key:
    return Key("RolloutJob", "team", f"run-{number}")


def test_a_run_has_a_turn_at_once_and_then_every_30_s() -> None:
    pace = Pace()
    assert pace.wait(key(0), 100.0) == 0.0
    assert pace.wait(key(0), 110.0) == 20.0
    assert pace.wait(key(0), 130.0) == 0.0
    assert pace.wait(key(0), 130.0) == 30.0


def test_many_at_once_come_one_after_the_other() -> None:
    pace = Pace(rate=20.0)
    waits = [pace.wait(key(number), 0.0) for number in range(41)]
    assert waits[0] == 0.0
    assert abs(waits[20] - 1.0) < 1e-9
    assert abs(waits[40] - 2.0) < 1e-9


def test_all_of_thousands_have_their_turns_and_no_more_than_the_rate_allows() -> None:
    pace, count, seconds = Pace(rate=20.0), 2000, 400
    due = dict.fromkeys(range(count), 0.0)
    turns: dict[int, list[float]] = {number: [] for number in range(count)}
    for step in range(10 * seconds):
        now = step / 10
        for number, at in due.items():
            if at <= now:
                wait = pace.wait(key(number), now)
                if wait == 0.0:
                    turns[number].append(now)
                due[number] = now + (wait or pace.period)
    assert min(map(len, turns.values())) >= 3
    settled = sum(1 for times in turns.values() for at in times if at >= 200)
    assert settled <= 20 * (seconds - 200) * 1.05
    at_once = [
        sum(1 for times in turns.values() for at in times if start <= at < start + 1) for start in range(seconds)
    ]
    assert max(at_once) <= 2 * 20


def test_who_rests_takes_no_time_from_the_others() -> None:
    pace = Pace(every=30.0, rate=20.0)
    for number in range(2000):
        pace.wait(key(number), 0.0)
    assert pace.period == 100.0
    assert pace.wait(key(0), 200.0) == 0.0
    assert pace.period == 30.0


def test_who_is_forgotten_begins_anew() -> None:
    pace = Pace()
    pace.wait(key(0), 0.0)
    pace.forget(key(0))
    assert pace.wait(key(0), 10.0) == 0.0
