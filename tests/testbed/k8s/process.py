"""Programs that run beside the tests, and waiting for them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

START_SECONDS = 300.0  # on a machine under load; the API server takes 3 s of two idle cores
_LOOK_SECONDS = 0.05  # between two looks, not a time by which something should be ready


class Ended(Exception):
    """A program ended that should run; the message has its last words."""


class Program:
    """A child process that can be ended and started again.

    It gets no input, writes to a log, and is killed by the kernel when whoever started it is gone. Its environment is
    PATH, HOME (``folder``), and what is given.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*_ends_with_its_parent(), *map(str, command)]
        # Programs of Kubernetes write caches under HOME, and must not find the developer's kubeconfig.
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it wrote before stays in the log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the tests, which end their programs in order
            )

    def kill(self) -> None:
        """End it at once, as a crash does: of a graceful end nothing would be kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self, seconds: float = START_SECONDS) -> int:
        """End it as Kubernetes does; its exit code. After ``seconds`` it is killed."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay open and nothing answers."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def check(self) -> None:
        """Raise ``Ended`` if it does not run."""
        code = self._process.poll() if self._process is not None else None
        if self._process is None or code is not None:
            raise Ended(f"{self.name} ended with {code}; its last words:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""


def until(
    condition: Callable[[], bool], what: str, *, seconds: float = START_SECONDS, programs: Sequence[Program] = ()
) -> None:
    """Wait until something is so.

    Raises:
        Ended: one of the programs that it depends on does not run any more.
        TimeoutError: it did not come to be; says ``what``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(_LOOK_SECONDS)


def answers(url: str) -> bool:
    """Whether a URL is answered well."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that nobody listens on just now; another process may be faster all the same."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _ends_with_its_parent() -> list[str]:
    setpriv = shutil.which("setpriv")  # of util-linux; without it a killed test run leaves its programs behind
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
