"""A relay to a server, for what a network does: connections that go dead without being closed, requests that wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Gate:
    """What clients send goes through it piece by piece, a request being one or two."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: int | None = None
        self._held = 0

    def let(self, pieces: int | None) -> None:
        """Let so many more pass, and hold what follows; ``None``: hold nothing."""
        with self._changed:
            self._left = pieces
            self._changed.notify_all()

    def holds(self) -> bool:
        """Whether somebody waits."""
        with self._changed:
            return self._held > 0 and self._left == 0

    def enter(self) -> None:
        """Wait for this piece's turn."""
        with self._changed:
            self._held += 1
            self._changed.wait_for(lambda: self._left != 0)
            self._held -= 1
            if self._left is not None:
                self._left -= 1


class Relay:
    """Listens on a free port of 127.0.0.1 and passes bytes on."""

    def __init__(self, host: str, port: int) -> None:
        self.gate = Gate()
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._links: list[_Link] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def freeze(self) -> int:
        """Let all connections that there are go dead, without a word to either side; how many. New ones live."""
        for link in self._links:
            link.frozen = True
        return len(self._links)

    def close(self) -> None:
        """End everything."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # close alone does not wake who waits in accept
        self._thread.join()
        self._server.close()
        self.gate.let(None)
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                link = _Link(near, far, self.gate)
                link.start()
                self._links.append(link)


class _Link:
    """A connection and the one that it is passed on by."""

    def __init__(self, near: socket.socket, far: socket.socket, gate: Gate) -> None:
        self.frozen = False
        self._ends = (near, far)
        ways = ((near, far, gate.enter), (far, near, lambda: None))
        self._threads = [threading.Thread(target=self._pass, args=way, daemon=True) for way in ways]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._shut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _pass(self, source: socket.socket, sink: socket.socket, enter: Callable[[], None]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                enter()
                if not self.frozen:
                    sink.sendall(data)
        if not self.frozen:  # of a dead connection neither side hears anything, not even its end
            self._shut()

    def _shut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
