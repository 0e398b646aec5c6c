"""Serving an environment from one process, or from several that share a port.

Python computes on one core a process. Several processes accept from one listening socket; each has a second one of its
own, whose address stands in the tokens of its sessions, so that a request that reached the wrong process is sent on.
One that dies takes its sessions along (their attempts fail as "SessionLost" and are made again) and is replaced.
"""

from __future__ import annotations

import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from kubegym.core.errors import InputError
from kubegym.core.protocols import ModelClient
from kubegym.http.server import Handler, serve
from kubegym.resources.environment import Environment
from kubegym.resources.limits import SessionLimits
from kubegym.resources.loader import load_environment
from kubegym.resources.runtime import EnvironmentRuntime
from kubegym.resources.server import ResourcesServer, ServerLimits
from kubegym.resources.tokens import session_secret

POD_ADDRESS_VARIABLE = "POD_IP"
"""Where Kubernetes tells a pod its address, under which the other replicas reach it."""

_SECRET_BYTES = 32
_RESTART_SECONDS = 1.0
_END_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResourcesService:
    """What to serve. Several processes get it pickled: functions must be those of a module.

    Attributes:
        environment: a folder, a name, or the class.
        config: the manifest's ``config``.
        name: what the environment is called in the run; default its own name.
        session_limits: of its hooks.
        server_limits: of each process.
        expose_tools_over_mcp: whether to serve ``/mcp``.
        models: makes the environment's own models, by role.
        aggregate_metrics: makes the handler of ``/aggregate_metrics``.
    """

    environment: str | Path | type[Environment]
    config: Mapping[str, Any] | None = None
    name: str = ""
    session_limits: SessionLimits | None = None
    server_limits: ServerLimits | None = None
    expose_tools_over_mcp: bool = False
    models: Callable[[], Mapping[str, ModelClient]] | None = None
    aggregate_metrics: Callable[[EnvironmentRuntime], Handler] | None = None

    def server(self, secret: bytes, address: str, process: str = "") -> ResourcesServer:
        """The server of one process. Raises InputError."""
        cls, name = self.environment, self.name
        if not isinstance(cls, type):
            loaded = load_environment(cls)
            cls, name = loaded.cls, name or loaded.name
        runtime = EnvironmentRuntime(cls, self.config, name=name, limits=self.session_limits)
        return ResourcesServer(
            runtime,
            secret=secret,
            self_address=address,
            models=self.models() if self.models else None,
            limits=self.server_limits,
            expose_tools_over_mcp=self.expose_tools_over_mcp,
            aggregate_metrics=self.aggregate_metrics(runtime) if self.aggregate_metrics else None,
            process=process,
        )


def run_resources_server(
    service: ResourcesService,
    host: str,
    port: int,
    *,
    processes: int = 1,
    advertise: str | None = None,
    environ: Mapping[str, str] = os.environ,
    grace_seconds: float = 30.0,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Blocks.

    Args:
        service: what to serve.
        host: the address to listen on.
        port: the port; 0 picks a free one.
        processes: how many share the port.
        advertise: the address under which other replicas reach this machine; default ``POD_IP``, else ``host``.
        environ: where the secret that replicas share is found, see ``tokens.session_secret``; without one it is random,
            and other replicas' tokens are forgeries.
        grace_seconds: for requests in flight at shutdown.
        on_listening: told the URL when every process accepts connections.

    Raises:
        InputError: the address cannot be had, or the environment cannot be served.
    """
    secret = session_secret(environ) or os.urandom(_SECRET_BYTES)
    reachable = advertise or environ.get(POD_ADDRESS_VARIABLE) or (host if _is_specific(host) else "127.0.0.1")
    shared = _bound(host, port)
    with shared:
        if processes == 1:
            address = _address(reachable, shared.getsockname()[1])
            app = service.server(secret, address).app()
            serve(app, host, port, grace_seconds=grace_seconds, on_listening=on_listening, sockets=[shared])
        else:
            _Processes(service, shared, reachable, secret, grace_seconds).run(processes, on_listening)


@dataclass(slots=True)
class _Child:
    process: multiprocessing.process.BaseProcess
    channel: Connection
    number: int
    url: str | None = None


class _Processes:
    """Starts the processes, replaces those that die, ends them all."""

    def __init__(
        self, service: ResourcesService, shared: socket.socket, reachable: str, secret: bytes, grace_seconds: float
    ) -> None:
        self._service = service
        self._shared = shared
        self._reachable = reachable
        self._secret = secret
        self._grace = grace_seconds
        self._context = multiprocessing.get_context("spawn")  # an environment's imports may have begun threads
        self._children: list[_Child] = []
        self._stopping = False

    def run(self, count: int, on_listening: Callable[[str], None] | None) -> None:
        with _on_signals(self._end):
            try:
                self._children = [self._start(number) for number in range(count)]
                while self._children:
                    self._attend()
                    if on_listening is not None and not self._stopping and all(one.url for one in self._children):
                        on_listening(self._children[0].url or "")
                        on_listening = None
            finally:
                self._end()
                self._bury()

    def _start(self, number: int) -> _Child:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve_process,
            args=(self._service, self._shared, self._reachable, self._secret, self._grace, number, theirs),
            name=f"kubegym-resources-{number}",
        )
        process.start()
        theirs.close()
        return _Child(process, ours, number)

    def _attend(self) -> None:
        """Wait for a process to say something or to end, and see to it."""
        channels = [child.channel for child in self._children if child.url is None]
        ready = wait([*channels, *(child.process.sentinel for child in self._children)])
        for child in list(self._children):
            if child.channel in ready:
                try:
                    child.url = child.channel.recv()
                except EOFError:
                    child.process.join()  # it died before it listened
            if child.process.is_alive():
                continue
            self._children.remove(child)
            child.channel.close()
            if self._stopping:
                continue
            if child.url is None:
                raise InputError("a process of the server could not start; see the log above")
            _log.error("process %d ended with %s; starting another", child.number, child.process.exitcode)
            time.sleep(_RESTART_SECONDS)
            if not self._stopping:
                self._children.append(self._start(child.number))

    def _end(self) -> None:
        self._stopping = True
        for child in self._children:
            if child.process.is_alive():
                child.process.terminate()

    def _bury(self) -> None:
        deadline = time.monotonic() + self._grace + _END_SECONDS
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                _log.error("process %d does not end; killing it", child.number)
                child.process.kill()
                child.process.join()
            child.channel.close()


def _serve_process(
    service: ResourcesService,
    shared: socket.socket,
    reachable: str,
    secret: bytes,
    grace_seconds: float,
    number: int,
    channel: Connection,
) -> None:
    """One of several processes."""
    threading.Thread(target=_end_with_parent, args=(channel,), daemon=True).start()
    with shared, _bound(reachable, 0) as own:
        app = service.server(secret, _address(reachable, own.getsockname()[1]), str(number)).app()
        serve(app, reachable, 0, grace_seconds=grace_seconds, on_listening=channel.send, sockets=[shared, own])


def _end_with_parent(channel: Connection) -> None:
    """A parent that was killed must not leave a server behind."""
    try:
        channel.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    kept = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_specific(host: str) -> bool:
    """Whether an address names one interface rather than all."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return True
