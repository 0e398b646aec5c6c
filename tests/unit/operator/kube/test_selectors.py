from __future__ import annotations

import pytest

from kubegym_operator.kube.protocol import Labels
from kubegym_operator.kube.selectors import matches, selector

PRESENT = {"app": "one", "tier": "front"}


@pytest.mark.parametrize(
    ("labels", "meant"),
    [
        ({}, True),
        ({"app": "one"}, True),
        ({"app": "two"}, False),
        ({"app": "one", "tier": "back"}, False),
        ({"none": "x"}, False),
        ("app=one", True),
        ("app==one", True),
        ("app=one,tier=back", False),
        ("app!=one", False),
        ("app != two, tier", True),
        ("none!=x", True),
        ("none", False),
        ("!none", True),
        ("!app", False),
        ("", True),
    ],
)
def test_what_a_selector_means(labels: Labels, meant: bool) -> None:
    assert matches(labels, PRESENT) is meant


def test_a_selector_as_text() -> None:
    assert selector({"b": "2", "a": "1"}) == "a=1,b=2"
    assert selector("a!=1") == "a!=1"
