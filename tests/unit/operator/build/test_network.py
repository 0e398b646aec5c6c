"""Rules of NetworkPolicies, one by one; whole policies are golden files."""

from __future__ import annotations

from typing import Any

import pytest

from kubegym_operator.build.context import BuildContext, DnsPeers, PodPeer
from kubegym_operator.build.endpoints import ModelEndpointUrl
from kubegym_operator.build.network import distinct, to_dns, to_model, to_proxies, to_stores, to_url, to_world

CONTEXT = BuildContext(pod_cidrs=("10.244.0.0/16", "fd00::/64"), service_cidrs=("10.96.0.0/12",))
WORLD = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16", "10.96.0.0/12"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00::/64"]}},
]


def namespace(name: str) -> list[dict[str, Any]]:
    return [{"podSelector": {}, "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]


@pytest.mark.parametrize(
    ("url", "to", "port"),
    [
        ("https://api.example.com/v1", WORLD, 443),
        ("http://api.example.com:8080/v1", WORLD, 8080),
        ("http://s3.example.svc.example.com", namespace("example"), None),
        ("http://10.1.2.3:9000", [{"ipBlock": {"cidr": "10.1.2.3/32"}}], 9000),
        ("https://[fd00::7]/", [{"ipBlock": {"cidr": "fd00::7/128"}}], 443),
        ("http://s3.storage.svc:9000", namespace("storage"), None),
        ("http://s3.storage.svc.cluster.local:9000", namespace("storage"), None),
        ("http://vllm:8000/v1", namespace("team"), None),
    ],
)
def test_a_url_opens_where_it_points(url: str, to: list[dict[str, Any]], port: int | None) -> None:
    ports = {} if port is None else {"ports": [{"port": port, "protocol": "TCP"}]}
    assert to_url(url, CONTEXT, "team") == {"to": to, **ports}


def test_without_known_ranges_nothing_is_taken_out() -> None:
    assert to_world(BuildContext())["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}]


def test_names_are_asked_for_where_the_chart_says() -> None:
    dns = DnsPeers(pods=(PodPeer({"app": "dns"}),), cidrs=("169.254.20.10/32",), ports=(53, 5353))
    rule = to_dns(BuildContext(dns=dns))
    assert rule["to"] == [
        {"podSelector": {"matchLabels": {"app": "dns"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ]
    assert [(each["port"], each["protocol"]) for each in rule["ports"]] == [
        (53, "UDP"),
        (53, "TCP"),
        (5353, "UDP"),
        (5353, "TCP"),
    ]


def test_a_server_of_ours_is_reached_by_its_pods_alone() -> None:
    def endpoint(home: str) -> ModelEndpointUrl:
        return ModelEndpointUrl(f"http://judge.{home}.svc:8000/v1", "m", "server", (home, "judge"))

    (here,) = to_model(endpoint("team"), CONTEXT, "team")["to"]
    (there,) = to_model(endpoint("shared"), CONTEXT, "team")["to"]
    assert here["podSelector"]["matchLabels"]["kubegym.dev/modelserver-name"] == "judge"
    assert "namespaceSelector" not in here
    assert there["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "shared"}}


def test_proxies_are_reached_once_each() -> None:
    proxies = {"HTTPS_PROXY": "http://10.0.0.9:3128", "https_proxy": "http://10.0.0.9:3128", "HTTP_PROXY": "proxy:80"}
    rules = to_proxies(BuildContext(proxy_env=proxies), "team")
    assert [rule["to"] for rule in rules] == [[{"ipBlock": {"cidr": "10.0.0.9/32"}}], namespace("team")]


def test_stores_are_443_outside_what_the_spec_names_and_the_cloud_s_identity() -> None:
    identity = {"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}], "ports": [{"port": 80}]}
    rules = to_stores(BuildContext(identity_egress=(identity,)), [None, "http://10.0.0.1:9000"], "team")
    assert [rule["ports"][0]["port"] for rule in rules] == [443, 9000, 80]


def test_a_rule_is_there_once() -> None:
    assert distinct([{"a": 1}], [{"b": 2}, {"a": 1}]) == [{"a": 1}, {"b": 2}]
