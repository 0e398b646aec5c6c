"""The values of the chart as typed models: names, defaults, bounds and what each one means.

Descriptions are for whoever edits ``values.yaml``: what it does, its unit, what happens if it is left alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


class Section(BaseModel):
    """A mapping whose keys are all known: a misspelt one is an error, not silence."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
OptionalName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$", max_length=253)]
Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
Duration = Annotated[str, StringConstraints(pattern=r"^([0-9]+(ms|s|m|h))+$")]
Strings = Annotated[dict[str, str], Field()]
KubeObject = Annotated[dict[str, Any], Field()]
Port = Annotated[int, Field(ge=1, le=65535)]
Switch = Literal["auto", True, False]
"""``auto``: where the cluster serves the API that it needs."""


def described(text: str, default: Any) -> Any:
    """A value with its description; a mutable default is made anew."""
    if isinstance(default, list | dict):
        return Field(default_factory=lambda: type(default)(default), description=text)
    return Field(default=default, description=text)


def section(kind: type[Section]) -> Any:
    """A mapping of further values, with all its defaults; its docstring is what users read."""
    return Field(default_factory=kind, description=kind.__doc__)


class Image(Section):
    """An image: `<registry>/<repository>:<tag>`."""

    registry: str = described("Registry, with its path if it has one.", "ghcr.io/kubegym")
    repository: str = described("Name of the image in its registry.", "")
    tag: str = described("Tag. Empty: `images.tag`, else the chart's appVersion.", "")
    digest: Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")] = described(
        "`sha256:...`; wins over the tag.", ""
    )


def _image(name: str, text: str) -> Any:
    return Field(default_factory=lambda: Image(repository=name), description=text)


class Images(Section):
    """Images of the operator and of the pods it makes."""

    registry: str = described(
        "Takes the place of every image's registry, for mirrors and clusters without internet; may have a path, such as"
        " `registry.example.org/mirror`.",
        "",
    )
    tag: str = described("Tag of KubeGym's own images. Empty: the chart's appVersion.", "")
    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = described(
        "Pull policy of the operator and of all pods it makes. Empty: Kubernetes decides by the tag.", ""
    )
    pull_secrets: list[Name] = described(
        "Names of Secrets for pulling: the operator's in the release's namespace, the pods' in their own namespaces.",
        [],
    )
    operator: Image = _image("kubegym-operator", "The operator.")
    model: Image = _image("kubegym-model", "Model servers: beside an engine, embedded, simulated; fetches weights.")
    agent: Image = _image("kubegym-agent", "Agents and finalisers.")
    resources: Image = _image("kubegym-resources", "Resources servers, and workers with an environment inside.")
    worker: Image = _image("kubegym-agent", "Rollout workers; they run from the agent's image.")
    vllm: Image = Field(
        default_factory=lambda: Image(registry="docker.io/vllm", repository="vllm-openai", tag="v0.32.0"),
        description="The engine of `engine: vllm`.",
    )


class ServiceAccount(Section):
    """Whom the API server sees."""

    create: bool = described("Make the operator's ServiceAccount. False: `name` has to exist.", True)
    name: OptionalName = described("Its name. Empty: the release's full name.", "")
    annotations: Strings = described("Annotations of it.", {})


class Operator(Section):
    """The operator's Deployment."""

    replicas: Annotated[int, Field(ge=0, le=5)] = described(
        "Operator pods. One works, chosen through a Lease; a second one takes over within seconds.", 1
    )
    log_level: Literal["debug", "info", "warning", "error"] = described("What it logs.", "info")
    log_format: Literal["json", "text"] = described("How it logs.", "json")
    settings: dict[SettingName, str] = described(
        "Further settings by the part of their environment variable behind `KUBEGYM_OPERATOR_`, such as"
        " `RESYNC_SECONDS: '300'`.",
        {},
    )
    resources: KubeObject = described(
        "Requests and limits. 2,000 environments and jobs need less than 400 MiB.",
        {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "768Mi"}},
    )
    pod_labels: Strings = described("Further labels of its pods.", {})
    pod_annotations: Strings = described("Annotations of its pods.", {})
    extra_env: list[KubeObject] = described("Further environment variables, as in a container.", [])
    node_selector: Strings = described("Nodes for it, by label.", {})
    tolerations: list[KubeObject] = described("Taints that it tolerates.", [])
    affinity: KubeObject = described("Affinity. Empty: replicas prefer different nodes.", {})
    priority_class_name: OptionalName = described("Its priority class.", "")
    service_account: ServiceAccount = section(ServiceAccount)


class Rbac(Section):
    """Rights."""

    create: bool = described(
        "Make roles and bindings: a Role for each watched namespace, else one ClusterRole. Never any right to read"
        " Secrets or logs.",
        True,
    )
    aggregate_roles: bool = described(
        "Make ClusterRoles that add KubeGym's kinds to the cluster's `view`, `edit` and `admin`.", True
    )


class Crds(Section):
    """CustomResourceDefinitions."""

    install: bool = described(
        "Install the CustomResourceDefinitions with the release, and upgrade them with it. False: apply `crds/` first.",
        True,
    )
    keep: bool = described("Keep them, and thereby every environment and job, when the release is uninstalled.", True)
    annotations: Strings = described("Further annotations of them.", {})


class Proxy(Section):
    """Proxy for pods that reach the outside: workers, weight fetchers, endpoints' agents."""

    http_proxy: str = described("`HTTP_PROXY` of pods that reach the outside.", "")
    https_proxy: str = described("`HTTPS_PROXY` of them.", "")
    no_proxy: str = described("`NO_PROXY` of them. The cluster's own names are added.", "")


class Pods(Section):
    """What the pods of environments and jobs get."""

    proxy: Proxy = section(Proxy)
    ca_config_map: OptionalName = described(
        "A ConfigMap with the key `ca.crt` that exists in every namespace where environments run; pods that reach the"
        " outside trust it. (trust-manager distributes such ConfigMaps.)",
        "",
    )


class Peer(Section):
    """Pods that a NetworkPolicy names."""

    namespace_labels: Strings | None = described("Labels of the namespace. Absent: the policy's own one.", None)
    pod_labels: Strings = described("Labels of the pods. Empty: all of them.", {})


class Dns(Section):
    """Who resolves names; every policy lets pods ask them."""

    pods: list[Peer] = Field(
        default_factory=lambda: [
            Peer(namespace_labels={"kubernetes.io/metadata.name": "kube-system"}, pod_labels={"k8s-app": "kube-dns"})
        ],
        description="Pods that resolve names.",
    )
    cidrs: list[Cidr] = described("Addresses that resolve names, such as a node-local cache's `169.254.20.10/32`.", [])
    ports: list[Port] = described("Their ports. OpenShift's pods listen on 5353.", [53])


class ApiServer(Section):
    """The API server, which a policy can name by address only."""

    cidrs: list[Cidr] = described("Where the API server is reached. Empty: anywhere, on its ports.", [])
    ports: list[Port] = described("Ports of the API server, behind the Service too.", [443, 6443])


class OperatorPolicy(Section):
    """NetworkPolicy of the operator."""

    enabled: bool = described("Restrict what the operator's pods reach and who reaches them.", True)
    api_server: ApiServer = section(ApiServer)


class Network(Section):
    """The cluster's addresses, for NetworkPolicies."""

    dns: Dns = section(Dns)
    pod_cidrs: list[Cidr] = described(
        "The cluster's pod ranges. Workers reach port 443 of the world outside of these and of `serviceCidrs`.",
        [],
    )
    service_cidrs: list[Cidr] = described("The cluster's Service ranges.", [])
    identity_egress: list[KubeObject] = described(
        "NetworkPolicy egress rules to the cloud's identity endpoints, for pods that reach stores; for example"
        " `169.254.170.23/32` port 80 (EKS Pod Identity) or `169.254.169.252/32` port 988 (GKE).",
        [],
    )
    operator_policy: OperatorPolicy = section(OperatorPolicy)


class ServiceMonitor(Section):
    """Prometheus operator: the operator's metrics."""

    enabled: Switch = described("Make a ServiceMonitor for the operator.", "auto")
    labels: Strings = described("Labels that your Prometheus selects by.", {})
    interval: Duration = described("How often it is scraped.", "30s")


class PodMonitor(Section):
    """Prometheus operator: the data plane's metrics."""

    enabled: Switch = described("Make a PodMonitor for model servers, agents, resources servers and workers.", "auto")
    labels: Strings = described("Labels that your Prometheus selects by.", {})
    interval: Duration = described("How often they are scraped.", "30s")


class PrometheusRule(Section):
    """Prometheus operator: alerts."""

    enabled: Switch = described("Make the alert rules of `files/rules.yaml`.", "auto")
    labels: Strings = described("Labels that your Prometheus selects by.", {})


class Dashboards(Section):
    """Grafana."""

    enabled: bool = described("Make one ConfigMap for each Grafana dashboard.", False)
    labels: Strings = described("Labels that Grafana's sidecar selects by.", {"grafana_dashboard": "1"})
    annotations: Strings = described("Annotations, such as the sidecar's folder.", {})


class Monitoring(Section):
    """Prometheus and Grafana."""

    scrapers: list[Peer] = described(
        "Who may scrape metrics through the NetworkPolicies of the operator and of environments. Empty: of the operator"
        " anybody, of environments nobody.",
        [],
    )
    service_monitor: ServiceMonitor = section(ServiceMonitor)
    pod_monitor: PodMonitor = section(PodMonitor)
    prometheus_rule: PrometheusRule = section(PrometheusRule)
    dashboards: Dashboards = section(Dashboards)


class Values(Section):
    """Values of the Helm chart kubegym."""

    name_override: Annotated[str, StringConstraints(max_length=40)] = described(
        "Instead of the chart's name in names of objects.", ""
    )
    fullname_override: Annotated[str, StringConstraints(max_length=40)] = described(
        "Instead of `<release>-kubegym`.", ""
    )
    common_labels: Strings = described("Labels of every object of the chart.", {})
    watch_namespaces: list[Name] = described(
        "Namespaces to watch, each with a Role of its own. Empty: the whole cluster, with a ClusterRole.", []
    )
    images: Images = section(Images)
    operator: Operator = section(Operator)
    rbac: Rbac = section(Rbac)
    crds: Crds = section(Crds)
    pods: Pods = section(Pods)
    network: Network = section(Network)
    monitoring: Monitoring = section(Monitoring)
    global_: KubeObject = Field(
        default_factory=dict, alias="global", description="What a parent chart hands to all of its charts; not used."
    )
