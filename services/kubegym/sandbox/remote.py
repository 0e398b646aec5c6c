"""The sandbox of a cluster: the same programs, in pods of their own, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kubegym.http import ConnectFailed, HttpClient, HttpError, Response, Url
from kubegym.sandbox.errors import InvalidExecution, SandboxBusy, SandboxError, SandboxLost, SandboxStarved
from kubegym.sandbox.protocol import Execution, Limits
from kubegym.sandbox.wire import execution_from_json, files_to_json, run_to_json

_RESOLVE_SECONDS = 5.0
_QUEUE_SECONDS = 600.0
_GRACE_SECONDS = 60.0


class PodSandbox:
    """See ``kubegym.sandbox.protocol.Sandbox``. Each program goes to the pod with the fewest of ours.

    A pod that is lost with a program raises SandboxLost, which is retryable: the program is not run again here, since
    how it ended is part of an attempt.

    Args:
        url: of the pods' headless Service, such as http://math-sandbox:8080.
        token_file: with the token that the pods ask for.
    """

    def __init__(self, url: str, token_file: str) -> None:
        self._url = Url(url)
        self._token_file = Path(token_file)
        self._http = HttpClient()
        self._addresses: list[str] = []
        self._resolved = 0.0
        self._running: Counter[str] = Counter()

    async def run(
        self,
        code: str | None = None,
        *,
        argv: Sequence[str] | None = None,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | bytes = b"",
        limits: Limits | None = None,
        value: str | None = None,
        collect: Sequence[str] = (),
    ) -> Execution:
        """See ``Sandbox.run``."""
        body = run_to_json(code, argv, files, stdin, limits, value, collect)
        seconds = 4 * (limits or Limits()).wall_seconds + _QUEUE_SECONDS + _GRACE_SECONDS
        return _execution(await self._asked("run", body, seconds))

    @contextlib.asynccontextmanager
    async def session(
        self, *, files: Mapping[str, str | bytes] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[PodSession]:
        """See ``Sandbox.session``. All calls go to one pod."""
        limits = limits or Limits()
        body = {"files": files_to_json(files), "limits": limits.to_dict()}
        address = await self._pick()
        self._running[address] += 1
        try:
            opened = await self._ask(address, "sessions", body, _GRACE_SECONDS)
            session = PodSession(self, address, str(opened["id"]), limits)
            try:
                yield session
            finally:
                with contextlib.suppress(SandboxError):
                    await self._ask(address, "sessions/close", {"id": session.id}, _GRACE_SECONDS)
        finally:
            self._running[address] -= 1

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _asked(self, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Ask some pod; another one if the first cannot be reached at all."""
        address = await self._pick()
        try:
            return await self._counted(address, path, body, seconds)
        except _Unreached:
            self._resolved = 0.0
            self._addresses = [each for each in self._addresses if each != address]
        other = await self._pick(avoid=address)
        return await self._counted(other, path, body, seconds)

    async def _counted(self, address: str, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        self._running[address] += 1
        try:
            return await self._ask(address, path, body, seconds)
        finally:
            self._running[address] -= 1

    async def _ask(self, address: str, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """One exchange with a pod. Raises SandboxError and InvalidExecution."""
        host = f"[{address}]" if ":" in address else address
        url = Url(f"{self._url.origin.scheme}://{host}:{self._url.origin.port}/{path}")
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise SandboxError(f"no token for the sandbox pods: {error}", retryable=False) from error
        headers = f"authorization: Bearer {token}\r\ncontent-type: application/json\r\n".encode()
        try:
            reply = await self._http.request(b"POST", url, headers, orjson.dumps(body), seconds, repeatable=False)
        except ConnectFailed as error:
            raise _Unreached(f"no sandbox pod at {address}: {error.message}") from error
        except HttpError as error:
            raise SandboxLost(f"the sandbox pod at {address} was lost: {error.message}") from error
        return _answered(reply, address)

    async def _pick(self, avoid: str | None = None) -> str:
        """The address of the pod with the fewest programs of ours. Raises SandboxLost when there is none."""
        if not self._addresses or time.monotonic() - self._resolved > _RESOLVE_SECONDS:
            self._addresses = await self._look_up()
            self._resolved = time.monotonic()
        candidates = [each for each in self._addresses if each != avoid] or self._addresses
        if not candidates:
            raise SandboxLost(f"no sandbox pod is ready behind {self._url.shown}")
        return min(candidates, key=lambda each: self._running[each])

    async def _look_up(self) -> list[str]:
        host = self._url.origin.host
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, self._url.origin.port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return []
        return sorted({str(address[0]) for *_, address in found})


class PodSession:
    """See ``kubegym.sandbox.protocol.SandboxSession``."""

    def __init__(self, sandbox: PodSandbox, address: str, id_: str, limits: Limits) -> None:
        self.id = id_
        self._sandbox = sandbox
        self._address = address
        self._limits = limits

    async def run(self, code: str, *, value: str | None = None) -> Execution:
        """See ``SandboxSession.run``."""
        body = {"id": self.id, "code": code, "value": value}
        seconds = self._limits.wall_seconds + _GRACE_SECONDS
        return _execution(await self._sandbox._ask(self._address, "sessions/run", body, seconds))


class _Unreached(SandboxLost):
    """Nothing was sent: another pod may be asked."""


def _answered(reply: Response, address: str) -> dict[str, Any]:
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise SandboxLost(f"the sandbox pod at {address} answered {reply.status} without JSON") from error
    if reply.status == 200 and isinstance(body, dict):
        return body
    detail = body.get("detail") if isinstance(body, dict) else None
    said = detail if isinstance(detail, dict) else {}
    message = f"the sandbox pod at {address}: {said.get('message', reply.status)}"
    if reply.status == 422:
        raise InvalidExecution(str(said.get("message", detail)))
    if reply.status == 429:
        raise SandboxBusy(message)
    if reply.status in (401, 403):
        raise SandboxError(message, retryable=False)
    reason, retryable = str(said.get("reason", SandboxLost.reason)), said.get("retryable") is not False
    if reason == SandboxStarved.reason:
        raise SandboxStarved(message)
    raise (
        SandboxLost(message, retryable=retryable)
        if reason == SandboxLost.reason
        else SandboxError(message, reason=reason, retryable=retryable)
    )


def _execution(body: Mapping[str, Any]) -> Execution:
    try:
        return execution_from_json(body)
    except (KeyError, TypeError, ValueError) as error:
        raise SandboxLost(f"a sandbox pod's answer is no execution: {error!r}") from error
