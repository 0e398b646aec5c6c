"""What is checked before anything runs, and what comes back as data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubegym.sandbox import Execution, Limits
from kubegym.sandbox.errors import InvalidExecution, SandboxError, SandboxStarved
from kubegym.sandbox.payload import check_report, parse_value, request_of
from kubegym.sandbox.wire import execution_from_json, execution_to_json, run_from_json, run_to_json

GOOD: dict[str, Any] = {"code": "1", "argv": None, "files": None, "stdin": b"", "value": None, "collect": ()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": None},
        {"argv": ["true"]},
        {"code": None, "argv": "true"},
        {"code": None, "argv": []},
        {"code": None, "argv": ["a\0b"]},
        {"code": None, "argv": ["true"], "value": "x"},
        {"code": b"bytes"},
        {"files": {"/etc/passwd": "x"}},
        {"files": {"../up": "x"}},
        {"files": {"a/../../b": "x"}},
        {"files": {"": "x"}},
        {"files": {".": "x"}},
        {"files": {"nul\0": "x"}},
        {"files": {"long" * 100: "x"}},
        {"files": {"/".join("d" * 40): "x"}},
        {"files": {f"f{n}": "" for n in range(1001)}},
        {"files": {"large": bytes(65 << 20)}},
        {"collect": ["/etc/shadow"]},
        {"collect": [f"f{n}" for n in range(101)]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_what_cannot_be_run_is_said_before(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidExecution):
        request_of(**{**GOOD, **wrong}, limits=Limits())


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu_seconds": 0},
        {"memory_bytes": -1},
        {"descriptors": 4},
        {"descriptors": 501},
        {"processes": True},
        {"wall_seconds": "9"},
    ],
)
def test_limits_have_bounds(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidExecution, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b"NaN", b"\x80\x04\x95", b"'one'", b"1 2", b'"\xff"'],
    ids=lambda text: str(text)[:20],
)
def test_what_is_no_json_is_no_value(text: bytes) -> None:
    assert parse_value(text) == (False, None)


def test_trouble_of_the_sandbox_is_no_verdict() -> None:
    with pytest.raises(SandboxError, match="could not be started: no disk"):
        check_report({"failed": "no disk", "starved": False})
    with pytest.raises(SandboxStarved) as raised:
        check_report({"failed": None, "starved": True})
    assert raised.value.retryable


@given(
    st.builds(
        Execution,
        stdout=st.text(),
        stderr=st.text(),
        exit_code=st.none() | st.integers(0, 255),
        stopped=st.sampled_from([None, "cpu", "memory"]),
        value=st.none() | st.integers() | st.lists(st.text()),
        files=st.dictionaries(st.text(min_size=1), st.binary()),
        refused=st.lists(st.text()).map(tuple),
    )
)
def test_an_execution_travels(done: Execution) -> None:
    assert execution_from_json(execution_to_json(done)) == done


@given(st.dictionaries(st.text(min_size=1), st.binary()), st.binary())
def test_a_request_travels(files: dict[str, bytes], stdin: bytes) -> None:
    limits = Limits(processes=3)
    sent = run_to_json("print()", None, files, stdin, limits, "x", ["out"])
    asked = {"code": "print()", "argv": None, "files": files, "stdin": stdin, "limits": limits, "value": "x"}
    assert run_from_json(sent) == {**asked, "collect": ["out"]}


@pytest.mark.parametrize("body", [{"code": 1}, {"files": [1]}, {"stdin": "*"}, {"limits": {"more": 1}}, {"collect": 1}])
def test_a_request_that_is_none(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidExecution):
        run_from_json(body)
