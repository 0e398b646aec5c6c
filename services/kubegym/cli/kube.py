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

import yaml

from kubegym.core.errors import InputError, KubeGymError

Object = dict[str, Any]
T = TypeVar("T")

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60

_REASONS = {401: "Unauthorized", 403: "Forbidden"}
_REMEDIES = {
    "Forbidden": "Ask for the role view (to look) or edit (to apply) in the namespace; KubeGym's kinds belong to both",
    "Unauthorized": "The credentials of the kubeconfig are not taken, or no more: log in again",
}
"""What to do about refusals that the API server only names, by its reason."""

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
            import urllib3
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
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError) as error:
            told = " ".join(str(error).split())
            raise NoCluster(f"no way to a cluster: {told}; set KUBECONFIG to a file that names one") from None
        configuration.retries = urllib3.Retry(
            total=None,
            connect=0,
            read=0,
            other=0,
            status=5,
            status_forcelist=(429,),  # not yet, says the server, and when; nothing was done
            allowed_methods=None,
            raise_on_status=False,
        )
        if not configuration.verify_ssl:  # the kubeconfig says so; kubectl does not repeat it at every request either
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._server = str(configuration.host)
        self._client = _patient(configuration)
        self._dynamic: Any = self._ask(lambda: kubernetes.dynamic.DynamicClient(self._client))

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """See Cluster."""
        try:
            found = self._ask(lambda: self._resource(api_version, kind).get(namespace=namespace, name=name))
        except ClusterError as error:
            if error.reason == "NotFound":
                return None
            raise
        return _plain(found)

    def list(self, api_version: str, kind: str, namespace: str | None, labels: str = "") -> list[Object]:
        """See Cluster."""
        where = {"namespace": namespace} if namespace else {}
        found = self._ask(lambda: self._resource(api_version, kind).get(label_selector=labels, **where))
        return [{"apiVersion": api_version, "kind": kind, **item} for item in _plain(found)["items"]]

    def apply(self, obj: Object) -> Object:
        """See Cluster."""
        resource = self._ask(lambda: self._resource(obj["apiVersion"], obj["kind"]))
        metadata = obj["metadata"]
        where = {"name": metadata["name"], "namespace": metadata["namespace"]}
        return _plain(self._ask(lambda: resource.server_side_apply(body=obj, field_manager=MANAGER, **where)))

    def logs(self, namespace: str, pod: str, *, follow: bool, tail: int | None, previous: bool) -> Iterator[str]:
        """See Cluster."""
        import kubernetes.client

        pods = kubernetes.client.CoreV1Api(self._client)
        options: dict[str, Any] = {"tail_lines": tail} if tail is not None else {}
        answer: Any = self._ask(
            lambda: pods.read_namespaced_pod_log(
                pod,
                namespace,
                follow=follow,
                previous=previous,
                _preload_content=False,
                _request_timeout=(_CONNECT_SECONDS, None if follow else _ANSWER_SECONDS),
                **options,
            )
        )
        for line in answer:
            yield line.decode(errors="replace").rstrip("\n")

    def _ask(self, request: Callable[[], T]) -> T:
        """Do a request; what the server says against it becomes a ClusterError, with what to do about it."""
        import kubernetes.client
        import urllib3

        try:
            return request()
        except kubernetes.client.ApiException as error:
            if not error.status:  # no answer of a server: the client's own trouble with TLS
                raise self._unreachable(str(error.reason)) from None
            said = _status(error.body)
            reason = said.get("reason") or _REASONS.get(error.status, "ClusterError")
            message = said.get("message") or f"{error.status} {error.reason}"
            remedy = f". {_REMEDIES[reason]}" if reason in _REMEDIES else ""
            raise ClusterError(f"{message}{remedy}", reason=reason) from None
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(_cause(error)) from None

    def _unreachable(self, why: str) -> ClusterError:
        told = " ".join(why.split())
        return ClusterError(
            f"the API server at {self._server} does not answer: {told}. Does it run, and is it the one that is meant? "
            "(kubectl config current-context; --context NAME takes another)",
            reason="Unavailable",
            retryable=True,
        )

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


def _patient(configuration: Any) -> Any:
    """A client that waits for an answer, but not for ever."""
    import kubernetes.client

    class Patient(kubernetes.client.ApiClient):  # type: ignore[misc]  # it has no types
        def call_api(self, *args: Any, _request_timeout: Any = None, **options: Any) -> Any:
            limit = _request_timeout or (_CONNECT_SECONDS, _ANSWER_SECONDS)
            return super().call_api(*args, _request_timeout=limit, **options)

    return Patient(configuration)


def _cause(error: Exception) -> str:
    """What is at the bottom of an error of urllib3, without the addresses of its objects."""
    inner = getattr(error, "reason", None)
    text = str(inner if isinstance(inner, Exception) else error)
    return text.partition("): ")[2] or text


def _status(body: object) -> Object:
    try:
        said = json.loads(body) if isinstance(body, str | bytes) else None
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
