from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kubegym_operator.app import build_context
from kubegym_operator.build.context import PodPeer
from kubegym_operator.settings import OperatorSettings


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> OperatorSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name if name in ("POD_NAME", "POD_NAMESPACE") else f"KUBEGYM_OPERATOR_{name}", value)
    return OperatorSettings()


def test_they_are_read_from_the_environment_as_the_chart_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        WATCH_NAMESPACES='["a","b"]',
        LISTEN=":8080",
        IMAGES='{"model":"r/model:1","agent":"r/agent:1","worker":"r/agent:1"}',
        DNS='{"pods":[{"namespaceLabels":{"n":"dns"},"podLabels":{"p":"dns"}}],"cidrs":["169.254.20.10/32"],"ports":[53,5353]}',
        MONITORING='[{"namespaceLabels":{"n":"prometheus"}}]',
        PROXY_ENV='{"HTTPS_PROXY":"http://proxy:3128"}',
        POD_CIDRS='["10.0.0.0/16"]',
        POD_NAME="kubegym-0",
        POD_NAMESPACE="kubegym-system",
    )
    assert settings.watch_namespaces == ("a", "b")
    assert settings.address == (None, 8080)
    context = build_context(settings)
    assert context.images.model == "r/model:1"
    assert context.images.resources == "kubegym-resources"
    assert context.dns.pods == (PodPeer({"p": "dns"}, {"n": "dns"}),)
    assert context.dns.ports == (53, 5353)
    assert context.monitoring == (PodPeer({}, {"n": "prometheus"}),)
    assert context.proxy_env == {"HTTPS_PROXY": "http://proxy:3128"}
    assert context.pod_cidrs == ("10.0.0.0/16",)
    assert context.operator.namespace_labels == {"kubernetes.io/metadata.name": "kubegym-system"}


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, WATCH_NAMESPACES="", CA_CONFIG_MAP="", LOG_FORMAT="")
    assert settings.watch_namespaces == ()
    assert settings.ca_config_map is None
    assert settings.log_format == "text"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "loud"),
        ("WORKERS", "0"),
        ("RESYNC_SECONDS", "-1"),
        ("IMAGES", '{"modell":"x"}'),
        ("WATCH_NAMESPACES", "a,b"),
        ("LEASE_RENEW_SECONDS", "20"),
        ("LISTEN", "8080"),
    ],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises((ValidationError, ValueError)):
        read(monkeypatch, **{name: value})


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9", ("::1", 9)), (":8080", (None, 8080))],
)
def test_addresses(listen: str, address: tuple[Any, int]) -> None:
    assert OperatorSettings(listen=listen).address == address


def test_nobody_changes_them() -> None:
    with pytest.raises(ValidationError):
        OperatorSettings().workers = 3  # type: ignore[misc]
