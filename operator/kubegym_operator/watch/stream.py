"""kopf watches; this hands on what it sees.

Only ``on.event`` handlers are used: they write nothing to the objects, neither finalizers nor annotations, and need no
retries, because all they do is to hand an object on. kopf runs in a thread with an event loop of its own: at its end it
cancels every task of its loop, and while it reads thousands of objects the others keep their turns. Its registry and
settings are made here for each run, nothing is registered by an import.

When kopf gives up (RBAC that was taken away, for one), it is started again with a growing pause. What was missed
meanwhile comes with its first list, and with the next resync.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from kubegym_operator.kube.config import Credentials
from kubegym_operator.kube.protocol import Kind, Object
from kubegym_operator.reconcile.watched import CHILDREN, MANAGED, OWN

log = logging.getLogger("kubegym.operator")
logging.getLogger("kopf._core.reactor.running").setLevel(
    logging.ERROR
)  # it misses signals, which are not its to handle

Deliver = Callable[[str | None, Object], None]
"""Takes ``ADDED``, ``MODIFIED``, ``DELETED``, or None for what a list showed, and the object."""

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_SECONDS = 120.0
_LOGIN_MINUTES = 15


class Stream:
    """The watches.

    Args:
        login: the credentials as they are now.
        deliver: called in the event loop that starts the stream.
        known: whether an object is no news; asked in the watch's thread, to spare the way for thousands after a list.
        namespaces: None means all.
        restarted: called in that loop when watching began anew.
    """

    def __init__(
        self,
        login: Callable[[], Awaitable[Credentials]],
        deliver: Deliver,
        *,
        known: Callable[[Object], bool] = lambda obj: False,
        namespaces: Sequence[str] | None = None,
        restarted: Callable[[], None] = lambda: None,
    ) -> None:
        self._login = login
        self._deliver = deliver
        self._known = known
        self._namespaces = namespaces
        self._restarted = restarted
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._home: asyncio.AbstractEventLoop | None = None
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._home = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there is a thread that watches or is about to."""
        return self._thread.is_alive()

    async def stop(self, seconds: float = 15.0) -> None:
        """End it."""
        self._stopping.set()
        self.restart()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, seconds)

    def restart(self) -> None:
        """Begin anew, with a list of everything; for watches that have been found dead."""
        if self._inner is not None:
            loop, stop = self._inner
            with suppress(RuntimeError):  # it is at its end already
                loop.call_soon_threadsafe(stop.set)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                asyncio.run(self._watch())
            except Exception as error:
                log.warning("watching ended: %s: %s", type(error).__name__, error)
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began > _HEALTHY_SECONDS else failures + 1
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            log.warning("watching begins anew in %.0f s", pause)
            self._stopping.wait(pause)
            self._call(self._restarted)

    async def _watch(self) -> None:
        stop = asyncio.Event()
        self._inner = (asyncio.get_running_loop(), stop)
        where: dict[str, Any] = {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=settings(namespaced=bool(self._namespaces)),
                standalone=True,
                stop_flag=stop,
                **where,
            )
        finally:
            self._inner = None

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            found = await self._login()
            return kopf.ConnectionInfo(
                server=found.server,
                ca_path=found.ca_path,
                insecure=not found.verify,
                certificate_path=found.certificate_path,
                private_key_path=found.key_path,
                scheme=found.scheme,
                token=found.token,
                expiration=datetime.now(UTC) + timedelta(minutes=_LOGIN_MINUTES) if found.token else None,
            )

        async def hand_on(event: Any, **_: Any) -> None:
            self._call(self._deliver, event["type"], event["object"])

        def is_news(event: Any, **_: Any) -> bool:
            return event["type"] == "DELETED" or not self._known(event["object"])

        kopf.on.login(registry=registry)(login)
        for kind in (*OWN, *CHILDREN):
            group, _, version = kind.api_version.rpartition("/")
            kopf.on.event(group=group, version=version, kind=kind.kind, id=kind.kind, when=is_news, registry=registry)(
                hand_on
            )
        return registry

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._home is not None
        with suppress(RuntimeError):  # the loop has been closed: the process ends
            self._home.call_soon_threadsafe(function, *arguments)


def settings(*, namespaced: bool) -> kopf.OperatorSettings:
    """Settings of kopf: short-lived watches that are bounded on both sides, no writes, children by their label."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.persistence.finalizer = "kubegym.dev/finalizer"  # never set; not to be taken for another operator's
    made.persistence.diffbase_storage = _NoEssence()
    made.persistence.progress_storage = _NoProgress()
    made.scanning.disabled = namespaced
    made.watching.server_timeout = 300
    made.watching.client_timeout = 310
    made.watching.connect_timeout = 30
    made.watching.inactivity_timeout = 70  # the server sends a bookmark every minute
    made.watching.reconnect_backoff = 1.0
    made.watching.chunk_size = 500
    made.networking.request_timeout = 60
    made.networking.connect_timeout = 10
    made.networking.error_backoffs = (1, 2, 4, 8)  # then watching begins anew
    # An object's worker ends soon after its last event: there is one for each of thousands after a list.
    made.queueing.idle_timeout = 0.2
    made.queueing.worker_limit = 500
    made.watching.label_selectors[_is_child] = MANAGED
    return made


def _is_child(resource: Any) -> bool:
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    return Kind(version, resource.kind) in _CHILDREN


_CHILDREN: Collection[Kind] = frozenset(CHILDREN)


class _NoEssence(kopf.DiffBaseStorage):
    """No copy of what was handled last: we compare nothing, and copying costs more than all the rest."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """No progress of handlers: ``on.event`` handlers have none."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence
