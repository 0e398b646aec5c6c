"""Requests to an API server, in plain data, for tests; what users do goes through kubectl (``cluster.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.config
import urllib3

Object = dict[str, Any]
Objects = list[Object]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Refused(Exception):
    """The API server answered with an error.

    Attributes:
        code: HTTP status.
        reason: of the answer's Status, such as ``AlreadyExists``.
    """

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('reason', '')}: {status.get('message', '')}")
        self.code = code
        self.reason = str(status.get("reason", ""))
        self.status = status


class Api:
    """One user's access to an API server. A kind is named as in manifests, by ``apiVersion`` and ``kind``."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.server = str(self._client.configuration.host)
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        self._client.close()

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        try:
            self.request("GET", "/readyz", timeout=5)
        except (Refused, urllib3.exceptions.HTTPError):
            return False
        return True

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
        timeout: float = 300.0,
    ) -> Any:
        """One request: the answer, decoded where it is JSON.

        ``timeout``, in seconds, is a bound against hanging: on a machine under load the API server takes a minute to
        look at large CRDs.

        Raises:
            Refused: the answer was an error.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "testbed"}
        token = self._client.configuration.auth_settings().get("BearerToken")
        if token:
            headers[token["key"]] = token["value"]
        # Of the client only what it made of the kubeconfig: it would take objects for models, and repeat requests.
        answer = self._client.rest_client.pool_manager.request(
            method,
            self.server + path + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body),
            headers=headers,
            timeout=timeout,
            retries=False,
        )
        if answer.status >= 400:
            try:
                status = json.loads(answer.data)
            except ValueError:
                status = {"message": answer.data.decode(errors="replace")}
            raise Refused(answer.status, status)
        return json.loads(answer.data) if answer.headers["Content-Type"] == "application/json" else answer.data.decode()

    def path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """Where objects of a kind lie; the server is asked once for its plural."""
        above = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if (api_version, kind) not in self._resources:
            for resource in self.request("GET", above)["resources"]:
                if "/" not in resource["name"]:
                    self._resources[api_version, resource["kind"]] = resource["name"], resource["namespaced"]
        plural, namespaced = self._resources[api_version, kind]
        within = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{above}{within}/{plural}" + (f"/{name}" if name else "")

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none."""
        try:
            found: Object = self.request("GET", self.path(api_version, kind, namespace, name))
        except Refused as refused:
            if refused.code == 404:
                return None
            raise
        return found

    def list(self, api_version: str, kind: str, namespace: str | None = None, labels: str = "") -> Objects:
        """All objects of a kind; ``labels`` is a selector."""
        query = {"labelSelector": labels} if labels else None
        items: Objects = self.request("GET", self.path(api_version, kind, namespace), query=query)["items"]
        return [{"apiVersion": api_version, "kind": kind, **item} for item in items]

    def create(self, obj: Object, namespace: str | None = None) -> Object:
        """Create an object in its own namespace, or in the one given."""
        namespace = obj["metadata"].get("namespace") or namespace
        made: Object = self.request("POST", self.path(obj["apiVersion"], obj["kind"], namespace), obj)
        return made

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        body: Object,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> Object:
        """A JSON merge patch of the object, or of a subresource such as ``status``."""
        path = self.path(api_version, kind, namespace, name) + (f"/{subresource}" if subresource else "")
        patched: Object = self.request("PATCH", path, body, content_type=MERGE)
        return patched

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, *, grace: int | None = None
    ) -> None:
        """Delete it, its children in the background; nothing to do where it is gone."""
        options: Object = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.request("DELETE", self.path(api_version, kind, namespace, name), options)
        except Refused as refused:
            if refused.code != 404:
                raise
