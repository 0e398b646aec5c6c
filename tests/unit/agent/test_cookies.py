"""A session's cookies: what replies set, what stays, what goes."""

from __future__ import annotations

import pytest

from kubegym.agent.cookies import MOST_COOKIES, CookieJar

SESSION = b"Gym___server=eyJzZXNzaW9uX2lkIjoiMSJ9.aQ==.x_y-z; path=/; Max-Age=1209600; httponly; samesite=lax"


def jar(*values: bytes) -> CookieJar:
    made = CookieJar()
    made.take([(b"Set-Cookie", value) for value in values])
    return made


def test_values_travel_as_they_came() -> None:
    assert jar(SESSION).line() == b"Cookie: Gym___server=eyJzZXNzaW9uX2lkIjoiMSJ9.aQ==.x_y-z\r\n"
    assert jar(b'a="quoted, value"').line() == b'Cookie: a="quoted, value"\r\n'
    assert jar(b"a=").line() == b"Cookie: a=\r\n"


def test_a_reply_replaces_what_it_names_and_keeps_the_rest() -> None:
    cookies = jar(b"session=1; Path=/", b"route=node7")
    assert cookies.line() == b"Cookie: session=1; route=node7\r\n"
    cookies.take([(b"content-type", b"text/plain"), (b"set-cookie", b"session=2")])
    assert cookies.line() == b"Cookie: session=2; route=node7\r\n"
    cookies.take([(b"content-type", b"application/json")])  # an unhandled exception sets none
    assert cookies.pairs == {b"session": b"2", b"route": b"node7"}


@pytest.mark.parametrize(
    "gone",
    [
        b"a=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly",
        b"a=; Max-Age=0",
        b"a=x; Max-Age=-5; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
    ],
)
def test_expired_ones_are_dropped(gone: bytes) -> None:
    cookies = jar(b"a=1", b"b=2")
    cookies.take([(b"set-cookie", gone)])
    assert cookies.line() == b"Cookie: b=2\r\n"


@pytest.mark.parametrize(
    "kept", [b"a=2; Expires=Fri, 01 Jan 2100 00:00:00 GMT", b"a=2; Expires=soon", b"a=2; Max-Age=x", b"a=2; Secure"]
)
def test_others_are_kept(kept: bytes) -> None:
    assert jar(b"a=1", kept).pairs == {b"a": b"2"}


@pytest.mark.parametrize("nonsense", [b"", b"=value", b"name only", b"x=" + b"y" * 70_000])
def test_nonsense_is_left_out(nonsense: bytes) -> None:
    assert jar(b"a=1", nonsense).line() == b"Cookie: a=1\r\n"


def test_a_jar_has_an_end() -> None:
    cookies = jar(*(b"n%d=1" % number for number in range(MOST_COOKIES + 5)))
    assert len(cookies.pairs) == MOST_COOKIES
    assert b"n0" not in cookies.pairs
    assert b"n%d" % (MOST_COOKIES + 4) in cookies.pairs


def test_from_a_caller_and_back_to_it() -> None:
    cookies = CookieJar(b"a=1; b=x=y;; broken")
    assert cookies.line() == b"Cookie: a=1; b=x=y\r\n"
    assert cookies.set_headers() == [
        (b"set-cookie", b"a=1; Path=/; HttpOnly"),
        (b"set-cookie", b"b=x=y; Path=/; HttpOnly"),
    ]
    assert not CookieJar()
    assert CookieJar().line() == b""
