"""A user's access to a cluster in plain data, through the kubernetes client (extra ``cluster``).

::

    ClusterError(KubeGymError)     the API server refused, or is out of reach
    NoCluster(InputError)          nothing says where a cluster is, or the client is not installed
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kubegym.core.errors import InputError, KubeGymError

Object = dict[str, Any]
T = TypeVar("T")

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

MANAGER = "kubegym-cli"
"""The field manager of what a user applies."""


class ClusterError(KubeGymError):
    """The API server refused a request, or does not answer; ``reason`` is the server's."""

    reason = "ClusterError"


class NoCluster(InputError):
    """There is no way to a cluster."""

    reason = "NoCluster"


class Cluster(Protocol):
    """What the commands ask of a cluster. Every method may raise ClusterError."""

    namespace: str
    """The namespace of the kubeconfig's context."""

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """The object, or None where there is none."""
        ...

    def list(self, api_version: str, kind: str, namespace: str | None, labels: str = "") -> list[Object]:
        """All objects of a kind, in one namespace or in all of them (None)."""
        ...

    def apply(self, obj: Object) -> Object:
        """Server-side apply; what the server made of it."""
        ...

    def logs(self, namespace: str, pod: str, *, follow: bool, tail: int | None, previous: bool) -> Iterator[str]:
        """Lines of a pod's main container."""
        ...


class RealCluster:
    """A cluster of a kubeconfig.

    Args:
        context: of the kubeconfig; None takes its current one, or the pod's own service account.

    Raises:
        NoCluster: there is no way to one.
    """

    def __init__(self, context: str | None = None) -> None:
        try:
            import kubernetes.client
            import kubernetes.config
            import kubernetes.dynamic
        except ImportError:
            raise NoCluster("commands for clusters need the extra `cluster`: pip install 'kubegym[cluster]'") from None
        self.namespace = "default"
        try:
            configuration = kubernetes.client.Configuration()
            if context is None and _in_a_pod():
                kubernetes.config.load_incluster_config(client_configuration=configuration)
                self.namespace = _POD_NAMESPACE.read_text().strip()
            else:
                kubernetes.config.load_kube_config(context=context, client_configuration=configuration)
                contexts, current = kubernetes.config.list_kube_config_contexts()
                chosen = next((one for one in contexts if one["name"] == context), current)
                self.namespace = chosen["context"].get("namespace", "default")
            configuration.retries = False
            self._client = kubernetes.client.ApiClient(configuration)
        except kubernetes.config.ConfigException as error:
            raise NoCluster(f"no way to a cluster: {error}; set KUBECONFIG") from None
        self._dynamic: Any = _asked(lambda: kubernetes.dynamic.DynamicClient(self._client))

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """See Cluster."""
        try:
            found = _asked(lambda: self._resource(api_version, kind).get(namespace=namespace, name=name))
        except ClusterError as error:
            if error.reason == "NotFound":
                return None
            raise
        return _plain(found)

    def list(self, api_version: str, kind: str, namespace: str | None, labels: str = "") -> list[Object]:
        """See Cluster."""
        where = {"namespace": namespace} if namespace else {}
        found = _asked(lambda: self._resource(api_version, kind).get(label_selector=labels, **where))
        return [{"apiVersion": api_version, "kind": kind, **item} for item in _plain(found)["items"]]

    def apply(self, obj: Object) -> Object:
        """See Cluster."""
        resource = _asked(lambda: self._resource(obj["apiVersion"], obj["kind"]))
        metadata = obj["metadata"]
        where = {"name": metadata["name"], "namespace": metadata["namespace"]}
        return _plain(_asked(lambda: resource.server_side_apply(body=obj, field_manager=MANAGER, **where)))

    def logs(self, namespace: str, pod: str, *, follow: bool, tail: int | None, previous: bool) -> Iterator[str]:
        """See Cluster."""
        import kubernetes.client

        pods = kubernetes.client.CoreV1Api(self._client)
        options: dict[str, Any] = {"tail_lines": tail} if tail is not None else {}
        answer: Any = _asked(
            lambda: pods.read_namespaced_pod_log(
                pod, namespace, follow=follow, previous=previous, _preload_content=False, **options
            )
        )
        for line in answer:
            yield line.decode(errors="replace").rstrip("\n")

    def _resource(self, api_version: str, kind: str) -> Any:
        import kubernetes.dynamic.exceptions

        try:
            return self._dynamic.resources.get(api_version=api_version, kind=kind)
        except kubernetes.dynamic.exceptions.ResourceNotFoundError:
            raise ClusterError(
                f"the cluster has no {kind}: is KubeGym installed in it? (helm install kubegym charts/kubegym)",
                reason="NotInstalled",
            ) from None


def _in_a_pod() -> bool:
    """Whether this is a pod with a service account, and nobody named another cluster."""
    return "KUBECONFIG" not in os.environ and _POD_NAMESPACE.exists()


def _plain(found: Any) -> Object:
    plain: Object = found.to_dict()
    return plain


def _asked(request: Callable[[], T]) -> T:
    """Do a request; what the server says against it becomes a ClusterError."""
    import kubernetes.client
    import urllib3

    try:
        return request()
    except kubernetes.client.ApiException as error:
        said = _status(error.body)
        raise ClusterError(
            said.get("message") or f"{error.status} {error.reason}", reason=said.get("reason") or "ClusterError"
        ) from None
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"the API server does not answer: {error}", reason="Unavailable", retryable=True) from None


def _status(body: object) -> Object:
    try:
        said = json.loads(body) if isinstance(body, str | bytes) else None
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
