"""NetworkPolicies, one a role (rule 8): what may come in, and what may go out.

A policy knows addresses and pods, not names of hosts. A URL outside of the cluster is therefore its port anywhere but
in the ranges of pods and Services; one of a Service is its namespace.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final
from urllib.parse import urlsplit

from kubegym_operator.build import labels
from kubegym_operator.build.child import Rendering
from kubegym_operator.build.context import BuildContext, PodPeer
from kubegym_operator.build.endpoints import MODEL_PORT, ModelEndpointUrl
from kubegym_operator.build.labels import Component

Rule = dict[str, Any]

NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that every namespace has: its name."""

_HTTPS = 443
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def network_policy(
    rendering: Rendering,
    name: str,
    *components: str,
    ingress: Sequence[Rule],
    egress: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A policy for a role, which may be several components, that denies what it does not list."""
    spec = {
        "podSelector": labels.pod_selector(rendering.owner, *components),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [dict(rule) for rule in ingress],
        "egress": [dict(rule) for rule in egress],
    }
    return rendering.child("NetworkPolicy", name, components[0], api_version="networking.k8s.io/v1", spec=spec)


def peer(pods: PodPeer) -> dict[str, Any]:
    """A peer of a rule."""
    selector: dict[str, Any] = {"podSelector": {"matchLabels": dict(pods.pod_labels)} if pods.pod_labels else {}}
    if pods.namespace_labels is not None:
        selector["namespaceSelector"] = {"matchLabels": dict(pods.namespace_labels)}
    return selector


def from_pods(peers: Iterable[PodPeer], port: int) -> Rule:
    """In from these pods at a TCP port."""
    return {"from": [peer(each) for each in peers], "ports": _tcp(port)}


def to_pods(peers: Iterable[PodPeer], *ports: int) -> Rule:
    """Out to these pods at TCP ports; none named: every port."""
    rule: Rule = {"to": [peer(each) for each in peers]}
    return {**rule, "ports": _tcp(*ports)} if ports else rule


def watchers(context: BuildContext) -> tuple[PodPeer, ...]:
    """Who may ask every pod with a server: the operator, and whoever scrapes metrics."""
    return (context.operator, *context.monitoring)


def to_dns(context: BuildContext) -> Rule:
    """Out to whoever resolves names."""
    peers = [*map(peer, context.dns.pods), *({"ipBlock": {"cidr": cidr}} for cidr in context.dns.cidrs)]
    ports = [{"port": port, "protocol": protocol} for port in context.dns.ports for protocol in ("UDP", "TCP")]
    return {"to": peers, "ports": ports}


def to_world(context: BuildContext, port: int = _HTTPS) -> Rule:
    """Out to a TCP port anywhere but in the cluster's own ranges."""
    own = [ipaddress.ip_network(cidr) for cidr in (*context.pod_cidrs, *context.service_cidrs)]
    blocks = []
    for everywhere, version in (("0.0.0.0/0", 4), ("::/0", 6)):
        block: dict[str, Any] = {"cidr": everywhere}
        if excepted := sorted({str(network) for network in own if network.version == version}):
            block["except"] = excepted
        blocks.append({"ipBlock": block})
    return {"to": blocks, "ports": _tcp(port)}


def to_url(url: str, context: BuildContext, namespace: str) -> Rule:
    """Out to where a URL points.

    Args:
        url: of an endpoint; a Service's as ``http://name``, ``http://name.namespace.svc`` or longer.
        context: the surroundings.
        namespace: of whoever asks: a bare name is a Service there.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (_HTTPS if parts.scheme == "https" else 80)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], "ports": _tcp(port)}
    words = host.split(".")
    if len(words) == 1 or (len(words) > 2 and words[2] == "svc"):
        home = namespace if len(words) == 1 else words[1]
        # Policies see the pod's port, which the Service's port does not tell.
        return to_pods([PodPeer(namespace_labels={NAMESPACE_NAME: home})])
    return to_world(context, port)


def to_model(endpoint: ModelEndpointUrl, context: BuildContext, namespace: str) -> Rule:
    """Out to the model that plays a role."""
    if endpoint.server is None:
        return to_url(endpoint.base_url, context, namespace)
    home, name = endpoint.server
    return to_pods([server_pods(name, home if home != namespace else None)], MODEL_PORT)


def server_pods(server: str, namespace: str | None) -> PodPeer:
    """A ModelServer's pods; ``namespace`` None is the policy's own."""
    mine = labels.pod_labels("ModelServer", server, Component.MODEL)
    return PodPeer(mine, None if namespace is None else {NAMESPACE_NAME: namespace})


def to_proxies(context: BuildContext, namespace: str) -> list[Rule]:
    """Out to the proxies that pods are told to use."""
    urls = sorted({context.proxy_env[name] for name in _PROXY_VARIABLES if context.proxy_env.get(name)})
    return [to_url(url if "//" in url else f"http://{url}", context, namespace) for url in urls]


def to_stores(context: BuildContext, urls: Iterable[str | None], namespace: str) -> list[Rule]:
    """Out to stores and hubs: 443 outside, endpoints by URL where the spec names some, proxies, cloud identity."""
    named = sorted({url for url in urls if url is not None})
    rules = [to_world(context), *(to_url(url, context, namespace) for url in named), *to_proxies(context, namespace)]
    return [*rules, *(dict(rule) for rule in context.identity_egress)]


def distinct(*rules: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """Rules in order, each once."""
    found: list[Rule] = []
    for rule in chain.from_iterable(rules):
        if dict(rule) not in found:
            found.append(dict(rule))
    return found


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
