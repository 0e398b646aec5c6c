"""The server in a sandbox pod: whoever has the token may have programs run here."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

from kubegym.http.presence import WhileConnected
from kubegym.http.server import App, Problem, Reply, Request
from kubegym.sandbox.errors import InvalidExecution, SandboxBusy, SandboxError
from kubegym.sandbox.local import LocalSandbox
from kubegym.sandbox.session import LocalSession
from kubegym.sandbox.wire import execution_to_json, files_from_json, limits_from_json, run_from_json

MAX_BODY = 64 << 20
_MOST_SESSIONS = 64
_IDLE_SECONDS = 900.0


class SandboxService:
    """Programs and sessions of a pod, for the holders of a token.

    Args:
        sandbox: where they run.
        token_file: holds the token; read at every request, so that it may change.
    """

    def __init__(self, sandbox: LocalSandbox, token_file: str) -> None:
        self._sandbox = sandbox
        self._token_file = Path(token_file)
        self._sessions: dict[str, _Kept] = {}
        self._problem: str | None = "starting"
        self._sweeping: asyncio.Task[None] | None = None

    def app(self) -> App:
        """The application."""
        routes = {
            ("POST", "/run"): self._run,
            ("POST", "/sessions"): self._open,
            ("POST", "/sessions/run"): self._call,
            ("POST", "/sessions/close"): self._close,
        }
        return App(
            "KubeGym sandbox",
            routes,
            start=self._start,
            stop=self._stop,
            unready=lambda: self._problem,
            max_body=MAX_BODY,
        )

    async def _start(self) -> None:
        await self._sandbox.start()  # a pod that cannot contain programs ends here, and says why
        self._problem = None
        self._sweeping = asyncio.create_task(self._sweep())

    async def _stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for kept in list(self._sessions.values()):
            await kept.stack.aclose()
        self._sessions.clear()
        await self._sandbox.close()

    async def _run(self, request: Request) -> Reply:
        self._authorise(request)
        try:
            arguments = run_from_json(request.object())
            async with _while_connected(request):
                return Reply.json(execution_to_json(await self._sandbox.run(**arguments)))
        except (InvalidExecution, SandboxError) as error:
            raise _problem(error) from error

    async def _open(self, request: Request) -> Reply:
        self._authorise(request)
        if len(self._sessions) >= _MOST_SESSIONS:
            raise _problem(SandboxBusy(f"{_MOST_SESSIONS} sessions are open in this pod"))
        body = request.object()
        stack = contextlib.AsyncExitStack()
        try:
            files, limits = files_from_json(body.get("files")), limits_from_json(body.get("limits"))
            session = await stack.enter_async_context(self._sandbox.session(files=files, limits=limits))
        except (InvalidExecution, SandboxError) as error:
            raise _problem(error) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise _problem(InvalidExecution(f"not a request for a session: {error}")) from error
        name = secrets.token_urlsafe(24)
        self._sessions[name] = _Kept(session, stack)
        return Reply.json({"id": name})

    async def _call(self, request: Request) -> Reply:
        self._authorise(request)
        body = request.object()
        kept = self._kept(body)
        kept.used = time.monotonic()
        if not isinstance(body.get("code"), str) or not isinstance(body.get("value"), str | None):
            raise _problem(InvalidExecution("code and value are texts"))
        try:
            async with _while_connected(request):
                return Reply.json(execution_to_json(await kept.session.run(body["code"], value=body.get("value"))))
        except SandboxError as error:
            raise _problem(error) from error

    async def _close(self, request: Request) -> Reply:
        self._authorise(request)
        body = request.object()
        kept = self._kept(body)
        del self._sessions[body["id"]]
        await kept.stack.aclose()
        return Reply.json({})

    def _kept(self, body: dict[str, Any]) -> _Kept:
        kept = self._sessions.get(str(body.get("id")))
        if kept is None:
            raise Problem(404, {"reason": "SandboxLost", "message": "no such session in this pod"})
        return kept

    def _authorise(self, request: Request) -> None:
        given = request.headers.get(b"authorization", b"")
        token = self._token_file.read_text().strip()
        if not token or not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise Problem(401, {"reason": "Unauthorized", "message": "this pod's token is needed"})

    async def _sweep(self) -> None:
        """End sessions that nobody calls any more."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 10)
            cutoff = time.monotonic() - _IDLE_SECONDS
            for name in [name for name, kept in self._sessions.items() if kept.used < cutoff]:
                await self._sessions.pop(name).stack.aclose()


class _Kept:
    """A session between calls."""

    def __init__(self, session: LocalSession, stack: contextlib.AsyncExitStack) -> None:
        self.session = session
        self.stack = stack
        self.used = time.monotonic()


def _problem(error: InvalidExecution | SandboxError) -> Problem:
    status = 422 if isinstance(error, InvalidExecution) else 429 if isinstance(error, SandboxBusy) else 503
    return Problem(status, {"reason": error.reason, "message": error.message, "retryable": error.retryable})


def _while_connected(request: Request) -> contextlib.AbstractAsyncContextManager[None]:
    """Ends the program of a client that is gone."""
    return contextlib.nullcontext() if request.receive is None else WhileConnected(request.receive)
