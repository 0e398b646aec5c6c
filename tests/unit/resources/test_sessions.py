"""Tokens, the table of sessions, and who waits for whom."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.errors import AgentError, InputError
from kubegym.core.protocols import Assignment
from kubegym.core.trajectory import Verdict
from kubegym.resources import Environment, EnvironmentRuntime
from kubegym.resources.sessions import Finished, ServedSession, SessionTable, Turnstile
from kubegym.resources.tokens import Forged, Token, Tokens, cookie_value, session_secret

pytestmark = pytest.mark.unit
SECRET = b"0123456789abcdef"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Empty(Environment):
    """Scores."""

    def verify(self, rollout: object) -> Verdict:
        return Verdict(1.0)


RUNTIME = EnvironmentRuntime(Empty)


class Time:
    """A clock to be moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def session(name: int = 0, idle: float = 60.0) -> ServedSession:
    assignment = Assignment("e", {}, "t", 0, 0, f"r{name}")
    return ServedSession(b"%016d" % name, assignment, RUNTIME.session(assignment), idle)


# Tokens


def test_a_token_says_owner_session_and_tools() -> None:
    tokens = Tokens(SECRET, "10.0.0.1:8000")
    identity = tokens.new_session()
    assert tokens.read(tokens.issue(identity)) == Token("10.0.0.1:8000", identity)
    assert Tokens(SECRET, "10.0.0.2:8000").read(tokens.issue(identity)).owner == "10.0.0.1:8000"
    limited = tokens.issue(identity, b"m", ["a", "b"])
    assert tokens.read(limited, b"m") == Token("10.0.0.1:8000", identity, frozenset({"a", "b"}))
    assert tokens.read(tokens.issue(identity, b"m", []), b"m").tools == frozenset()


def test_a_token_of_one_kind_is_not_the_other() -> None:
    tokens = Tokens(SECRET, "h:1")
    for made, asked in ((b"m", b"s"), (b"s", b"m")):
        with pytest.raises(Forged):
            tokens.read(tokens.issue(tokens.new_session(), made), asked)  # type: ignore[arg-type]


def test_another_secret_s_token_is_forged() -> None:
    with pytest.raises(Forged):
        Tokens(SECRET, "h:1").read(Tokens(b"another secret!!", "h:1").issue(b"0" * 16))


@given(st.data())
def test_a_token_with_any_character_changed_is_forged(data: st.DataObject) -> None:
    tokens = Tokens(SECRET, "127.0.0.1:8000")
    value = tokens.issue(b"0123456789012345").decode()
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.sampled_from(ALPHABET.replace(value[place], "")))
    with pytest.raises(Forged):
        tokens.read(f"{value[:place]}{other}{value[place + 1 :]}".encode())


@given(st.binary(max_size=200))
def test_what_is_no_token_is_forged(value: bytes) -> None:
    with pytest.raises(Forged):
        Tokens(SECRET, "h:1").read(value)


def test_an_owner_cannot_be_written_into_a_token() -> None:
    tokens = Tokens(SECRET, "127.0.0.1:8000")
    value = tokens.issue(b"0" * 16)
    data = urlsafe_b64decode(value + b"=" * (-len(value) % 4)).replace(b"127.0.0.1", b"169.254.1")
    with pytest.raises(Forged):
        tokens.read(urlsafe_b64encode(data).rstrip(b"="))


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (None, None),
        (b"", None),
        (b"kubegym-session=abc", b"abc"),
        (b"a=1; kubegym-session=abc; b=2", b"abc"),
        (b"a=1;kubegym-session=abc", b"abc"),
        (b"xkubegym-session=abc; kubegym-session", None),
    ],
)
def test_the_cookie_is_found_among_others(header: bytes | None, value: bytes | None) -> None:
    assert cookie_value(header) == value


def test_the_secret_is_a_file_s_or_a_variable_s(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert session_secret({}) is None
    assert session_secret({"KUBEGYM_SESSION_SECRET": SECRET.decode()}) == SECRET
    both = {"KUBEGYM_SESSION_SECRET_FILE": str(file), "KUBEGYM_SESSION_SECRET": "another secret!!"}
    assert session_secret(both) == SECRET
    with pytest.raises(InputError, match="at least 16"):
        session_secret({"KUBEGYM_SESSION_SECRET": "short"})
    with pytest.raises(InputError, match="No such file"):
        session_secret({"KUBEGYM_SESSION_SECRET_FILE": str(tmp_path / "absent")})


# The table


def test_sessions_expire_when_nobody_uses_them() -> None:
    time = Time()
    table = SessionTable(time, sweep_seconds=10)
    for name in range(1000):
        table.add(session(name, idle=60))
    time.now += 59
    assert table.sweep() == []
    assert len(table) == 1000
    time.now += 12
    assert len(table.sweep()) == 1000
    assert len(table) == 0
    assert table._buckets == {}


async def test_a_request_prolongs_a_session_and_keeps_it_while_it_runs() -> None:
    time = Time()
    table = SessionTable(time, sweep_seconds=10)
    used, idle = session(1), session(2)
    table.add(used)
    table.add(idle)
    time.now += 50
    async with table.using(used):
        time.now += 1000
        assert table.sweep() == [idle]
    time.now += 59
    assert table.sweep() == []
    time.now += 15
    assert table.sweep() == [used]


async def test_no_session_ends_before_its_idle_time() -> None:
    """Whatever the width of the buckets and the times of the sweeps."""
    time = Time()
    table = SessionTable(time, sweep_seconds=7)
    one = session(1, idle=33)
    table.add(one)
    for step in (5, 30, 12, 32, 1, 33):
        time.now += step
        left = one.expires - time.now
        assert (one in table.sweep()) <= (left <= 0)
        if one.closed:
            break
        async with table.using(one):
            pass
    else:
        pytest.fail("it never ended")


def test_a_session_that_ended_leaves_nothing_behind() -> None:
    table = SessionTable(Time())
    one = session()
    table.add(one)
    assert table.remove(one)
    assert not table.remove(one)
    assert (len(table), table._buckets, table.get(one.id)) == (0, {}, None)


def test_too_many_sessions_are_refused() -> None:
    table = SessionTable(Time(), most=2)
    table.add(session(1))
    table.add(session(2))
    with pytest.raises(AgentError) as caught:
        table.add(session(3))
    assert (caught.value.reason, caught.value.retryable) == ("TooManySessions", True)


def test_verdicts_are_kept_within_bounds() -> None:
    table = SessionTable(Time(), most_finished=3, most_finished_bytes=10)
    for name in range(5):
        one = session(name)
        table.add(one)
        table.finish(one, Finished(name, b"abc"))
    assert [table.verdict(b"%016d" % name) is not None for name in range(5)] == [False, False, True, True, True]
    big = session(9)
    table.finish(big, Finished(9, b"x" * 9))
    assert table.verdict(big.id) is not None
    assert table.verdict(b"%016d" % 4) is None


async def test_who_waited_for_a_session_that_ended_is_told() -> None:
    table = SessionTable(Time())
    one = session()
    table.add(one)

    async def wait() -> None:
        async with table.using(one):
            pytest.fail("the session is over")

    async with table.using(one):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        table.remove(one)
    with pytest.raises(AgentError) as caught:
        await waiting
    assert (caught.value.reason, caught.value.retryable) == ("SessionLost", True)


# The turnstile


@pytest.mark.looptime
async def test_exclusive_calls_run_alone_and_shared_ones_together() -> None:
    turnstile = Turnstile()
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    async def run(name: str, shared: bool) -> None:
        async with turnstile.shared() if shared else turnstile.exclusive():
            inside.append(name)
            await asyncio.sleep(1)
            seen.append(tuple(sorted(inside)))
            await asyncio.sleep(1)
            inside.remove(name)

    await asyncio.gather(run("a", True), run("b", True), run("X", False), run("c", True), run("Y", False))
    assert seen == [("a", "b"), ("a", "b"), ("X",), ("c",), ("Y",)]


@pytest.mark.looptime
async def test_a_call_that_is_given_up_blocks_nobody() -> None:
    turnstile = Turnstile()

    async def hold(shared: bool) -> None:
        async with turnstile.shared() if shared else turnstile.exclusive():
            await asyncio.sleep(10)

    first = asyncio.ensure_future(hold(True))
    await asyncio.sleep(0)
    drained = asyncio.ensure_future(hold(False))
    await asyncio.sleep(0)
    drained.cancel()
    await asyncio.gather(drained, return_exceptions=True)
    async with asyncio.timeout(5), turnstile.shared():
        pass
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(5), turnstile.exclusive():
        pass
