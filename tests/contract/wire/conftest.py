"""What the suite talks to: servers it starts, or those that the environment names.

``KUBEGYM_WIRE_AGENT``, ``KUBEGYM_WIRE_RESOURCES`` and ``KUBEGYM_WIRE_MODEL`` are base URLs on this machine (a port
forwarded to a cluster, say). A given URL takes the place of all servers of its kind. ``KUBEGYM_WIRE_ROW`` is then a row
that its environment can run (a file with one JSON object), and ``KUBEGYM_WIRE_TOOL`` a call, ``{"name", "arguments"}``.
Tests of what only KubeGym serves run against given URLs with ``KUBEGYM_WIRE_OURS=1``, where the environment must be
``tests/testbed/wire/counter``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.wire_client import Target
from testbed.wire_targets import Fleet

OURS = {
    "resources": ("one", "replicas", "processes"),
    "agent": ("one", "over-replicas"),
    "model": ("one",),
}
FOREIGN = {"resources": ("foreign",), "agent": ("over-foreign", "foreign"), "model": ()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``resources``, ``agent`` and ``model`` are every server of that kind, ``our_...`` those that are KubeGym's."""
    for kind in OURS:
        for name, names in ((kind, OURS[kind] + FOREIGN[kind]), (f"our_{kind}", OURS[kind])):
            if name not in metafunc.fixturenames:
                continue
            if f"KUBEGYM_WIRE_{kind.upper()}" in os.environ:
                ours = os.environ.get("KUBEGYM_WIRE_OURS") == "1"
                names = ("given",) if name == kind or ours else ()
            metafunc.parametrize(name, names, indirect=True)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The servers that tests share."""
    fleet = Fleet()
    yield fleet
    fleet.stop()


def _target(fleet: Fleet, kind: str, name: str) -> Target:
    if name == "given":
        given = Target(os.environ[f"KUBEGYM_WIRE_{kind.upper()}"].rstrip("/"))
        given.ours = os.environ.get("KUBEGYM_WIRE_OURS") == "1"
        if row := os.environ.get("KUBEGYM_WIRE_ROW"):
            given.row = json.loads(Path(row).read_text(encoding="utf-8"))
        if tool := os.environ.get("KUBEGYM_WIRE_TOOL"):
            call = json.loads(tool)
            given.tool = (call["name"], call["arguments"])
        return given
    server = {
        ("resources", "one"): "resources",
        ("resources", "foreign"): "foreign-resources",
        ("agent", "one"): "agent",
        ("agent", "foreign"): "foreign-agent",
        ("model", "one"): "model",
    }.get((kind, name), name if kind == "resources" else f"agent-{name}")
    return Target(fleet.url(server), ours=name != "foreign")


@pytest.fixture
def resources(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "resources", request.param)


@pytest.fixture
def our_resources(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "resources", request.param)


@pytest.fixture
def agent(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "agent", request.param)


@pytest.fixture
def our_agent(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "agent", request.param)


@pytest.fixture
def model(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "model", request.param)


@pytest.fixture
def our_model(request: pytest.FixtureRequest, fleet: Fleet) -> Target:
    return _target(fleet, "model", request.param)
