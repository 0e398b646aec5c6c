"""The API server over HTTP, by Kubernetes' own asynchronous client.

Of that client only configuration, credentials and transport are used: objects stay plain dicts, which costs neither the
time of its models nor fields that they do not know. Nothing is tried again here; the queue does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import aiohttp
import orjson
from kubernetes.aio.client import ApiClient

from kubegym_operator.kube.discovery import Discovery
from kubegym_operator.kube.errors import (
    Conflict,
    Gone,
    KindNotServed,
    NotFound,
    TimedOut,
    Unavailable,
    error_from,
)
from kubegym_operator.kube.protocol import KindLike, Labels, Object
from kubegym_operator.kube.selectors import selector

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

Observe = Callable[[str, str, str], None]
"""Told the verb, the kind and the HTTP status (or ``timeout``, ``unavailable``) of every request."""

Query = list[tuple[str, str]]

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
PAGE = 500
"""Objects of a list that are asked for at a time."""


class KubeClient:
    """See ``KubeApi``. Close it at the end; it belongs to the event loop that first uses it.

    Args:
        configuration: from ``kube.config.load``.
        manager: field manager of creates and patches.
        agent: the ``User-Agent``, by which an audit log tells clients apart.
        timeout: seconds that a request may take.
        page: objects of a list that are asked for at a time.
        observe: told of every request.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        manager: str = "kubegym",
        agent: str = "kubegym-operator",
        timeout: float = 30.0,
        page: int = PAGE,
        observe: Observe = lambda verb, kind, code: None,
    ) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = agent
        self._manager = manager
        self._timeout = timeout
        self._page = page
        self._observe = observe
        self._discovery = Discovery(self._fetch)

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: KindLike, namespace: str | None, name: str) -> Object | None:
        """See KubeApi."""
        try:
            return await self._object("get", kind, namespace, name)
        except KindNotServed:
            raise
        except NotFound:
            return None

    async def list(self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None) -> list[Object]:
        """See KubeApi."""
        try:
            return [one async for page in self.pages(kind, namespace, labels=labels) for one in page]
        except Gone:  # reading took longer than a continuation lives: once more, all of it
            return [one async for page in self.pages(kind, namespace, labels=labels) for one in page]

    async def pages(
        self, kind: KindLike, namespace: str | None = None, *, labels: Labels | None = None
    ) -> AsyncIterator[tuple[Object, ...]]:
        """See KubeApi."""
        more: str | None = ""
        while more is not None:
            query = [("limit", str(self._page))]
            if labels is not None:
                query.append(("labelSelector", selector(labels)))
            if more:
                query.append(("continue", more))
            page = await self._object("list", kind, namespace, None, query=query)
            # Items of a list do not say what they are.
            yield tuple({"apiVersion": kind[0], "kind": kind[1], **item} for item in page["items"])
            more = page["metadata"].get("continue") or None

    async def create(self, obj: Object) -> Object:
        """See KubeApi."""
        query = [("fieldManager", self._manager)]
        kind, namespace = (obj["apiVersion"], obj["kind"]), obj["metadata"].get("namespace")
        return await self._object("create", kind, namespace, None, method="POST", body=obj, query=query)

    async def apply(self, obj: Object, *, manager: str, dry_run: bool = False) -> Object:
        """See KubeApi."""
        return await self._apply("apply", obj, manager, dry_run=dry_run)

    async def apply_status(self, obj: Object, *, manager: str) -> Object:
        """See KubeApi."""
        return await self._apply("apply_status", obj, manager, subresource="status")

    async def patch(self, kind: KindLike, namespace: str | None, name: str, patch: Object) -> Object:
        """See KubeApi."""
        query = [("fieldManager", self._manager)]
        return await self._object(
            "patch", kind, namespace, name, method="PATCH", body=patch, query=query, content_type=_MERGE
        )

    async def scale(self, kind: KindLike, namespace: str | None, name: str, replicas: int) -> None:
        """See KubeApi."""
        await self._object(
            "scale",
            kind,
            namespace,
            name,
            method="PATCH",
            subresource="scale",
            body={"spec": {"replicas": replicas}},
            query=[("fieldManager", f"{self._manager}-scale")],
            content_type=_MERGE,
        )

    async def delete(self, kind: KindLike, namespace: str | None, name: str, *, uid: str | None = None) -> bool:
        """See KubeApi."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._object("delete", kind, namespace, name, method="DELETE", body=options)
        except KindNotServed:
            raise
        except NotFound:
            return False
        except Conflict:
            if uid is None:
                raise
            return False  # another one of that name
        return True

    async def serves(self, kind: KindLike) -> bool:
        """See KubeApi."""
        try:
            await self._discovery.resource(kind)
        except KindNotServed:
            return False
        return True

    async def _apply(
        self, verb: str, obj: Object, manager: str, *, subresource: str | None = None, dry_run: bool = False
    ) -> Object:
        query = [("fieldManager", manager), ("force", "true")]
        if dry_run:
            query.append(("dryRun", "All"))
        metadata = obj["metadata"]
        return await self._object(
            verb,
            (obj["apiVersion"], obj["kind"]),
            metadata.get("namespace"),
            metadata["name"],
            method="PATCH",
            subresource=subresource,
            body=obj,
            query=query,
            content_type=_APPLY,
        )

    async def _object(
        self,
        verb: str,
        kind: KindLike,
        namespace: str | None,
        name: str | None,
        *,
        method: str = "GET",
        subresource: str | None = None,
        body: Object | None = None,
        query: Query | None = None,
        content_type: str = _JSON,
    ) -> Object:
        resource = await self._discovery.resource(kind)
        path = resource.path(namespace, name, subresource)
        try:
            return await self._request(verb, kind[1], method, path, body, query or [], content_type)
        except NotFound as error:
            if "the server could not find the requested resource" in error.message:  # not: no such object
                self._discovery.forget(kind)
                raise KindNotServed(f"{kind[0]} {kind[1]} is not installed", status=404) from None
            raise

    async def _fetch(self, path: str) -> Object:
        return await self._request("discover", "", "GET", path, None, [], _JSON)

    async def _request(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        body: Object | None,
        query: Query,
        content_type: str,
    ) -> Object:
        code = "unavailable"
        try:
            async with asyncio.timeout(self._timeout):
                headers = {"Accept": _JSON, "Content-Type": content_type}
                _, url, headers, _, _ = await self._client.param_serialize(
                    method, path, query_params=query, header_params=headers, auth_settings=["BearerToken"]
                )
                answer = await self._client.call_api(
                    method, url, headers, body, _request_timeout=aiohttp.ClientTimeout(self._timeout)
                )
                data: bytes = await answer.read()
                code = str(answer.status)
                if answer.status >= 400:
                    raise error_from(answer.status, data, answer.headers.get("Retry-After"))
                content: Object = orjson.loads(data)
                return content
        except TimeoutError:
            code = "timeout"
            raise TimedOut(f"{method} {path}: no answer within {self._timeout:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__}: {error}") from None
        finally:
            self._observe(verb, kind, code)
