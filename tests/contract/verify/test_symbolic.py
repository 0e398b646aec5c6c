"""math-verify in processes of its own: what is equal, what is stopped, and who is not disturbed."""

from __future__ import annotations

import asyncio

import pytest

from kubegym.verify import symbolic

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("expected", "text", "equal"),
    [
        ("1/2", "so \\boxed{0.5}", True),
        ("$\\frac{1}{2}$", "\\boxed{50\\%}", True),
        ("\\(x^2+2x+1\\)", "\\boxed{(x+1)^2}", True),
        ("5", "the answer is 5", True),
        ("5", "5 or 6", False),
        ("\\{1,2\\}", "\\boxed{2,1}", True),
        ("(1,2)", "\\boxed{(2,1)}", False),
        ("1", "", False),
        ("1", "\\boxed{\\int", False),
        ("", "\\boxed{1}", False),
        ("\\sqrt{2}", "\\boxed{1.41421356}", True),
        ("\\sqrt{2}", "\\boxed{1.4}", False),
    ],
)
async def test_expressions_are_equal_whatever_their_form(expected: str, text: str, equal: bool) -> None:
    assert (await symbolic.compare(expected, text)).equal is equal


async def test_what_was_read_is_told() -> None:
    assert (await symbolic.compare("4", "\\boxed{2 + 2}")).extracted is not None
    assert (await symbolic.compare("4", "nothing")).extracted is None


async def test_an_answer_that_never_ends_is_stopped_and_the_next_one_compared() -> None:
    endless = await symbolic.compare("1", "\\boxed{9^{9^{9^9}}}", cpu_seconds=2.0)
    assert (endless.equal, endless.stopped) == (False, True)
    assert (await symbolic.compare("1", "\\boxed{1}")).equal


async def test_many_are_compared_at_once() -> None:
    found = await asyncio.gather(*(symbolic.compare(str(n), f"\\boxed{{{n}.0}}") for n in range(64)))
    assert all(one.equal for one in found)


async def test_the_loop_goes_on_meanwhile() -> None:
    endless = asyncio.ensure_future(symbolic.compare("1", "\\boxed{9^{9^{9^9}}}", cpu_seconds=600.0))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not endless.done()
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)


def test_the_library_is_imported_in_its_process_alone() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from kubegym.verify import symbolic; symbolic.require(); print('sympy' in sys.modules, "
        "symbolic.library_version())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False 0.9.0\n"
