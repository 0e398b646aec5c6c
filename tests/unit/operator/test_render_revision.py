"""Which settings make a new rendering, and thereby leave the pods that are there as they are (rule 2)."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym_operator.app import build_context
from kubegym_operator.settings import DnsSetting, ImagesSetting, OperatorSettings

pytestmark = pytest.mark.unit


def revision(**settings: Any) -> str:
    return build_context(OperatorSettings(**settings)).render_revision


@pytest.mark.parametrize(
    "settings",
    [
        {"images": ImagesSetting(model="registry.example.org/kubegym-model:next")},
        {"image_pull_policy": "Always"},
        {"image_pull_secrets": ("mirror",)},
        {"proxy_env": {"HTTPS_PROXY": "http://proxy.example.org:3128"}},
        {"ca_config_map": "corporate-ca"},
    ],
)
def test_what_would_restart_pods_is_a_new_rendering(settings: dict[str, Any]) -> None:
    assert revision(**settings) != revision()
    assert revision(**settings) == revision(**settings)


@pytest.mark.parametrize(
    "settings", [{"dns": DnsSetting(ports=(5353,))}, {"pod_cidrs": ("10.0.0.0/16",)}, {"log_level": "debug"}]
)
def test_addresses_are_applied_at_once(settings: dict[str, Any]) -> None:
    assert revision(**settings) == revision()
