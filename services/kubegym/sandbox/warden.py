"""A warden: the process that forks one program at a time, watches it from outside, and leaves nothing of it behind.

It has the fork server's warm memory, which the program inherits, and therefore never holds what is anybody's: code,
files and input come in a memory file that only the child reads, output is moved into another one by the kernel
(``splice``), and what is left over in the warden's own memory is numbers. The next program finds nothing of this one.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kubegym.sandbox import child, chmod, kernel, proc, scratch
from kubegym.sandbox.child import Place, Streams
from kubegym.sandbox.syscalls import CLONE_THREAD, NEW_NAMESPACES

MESSAGE_BYTES = 64 << 10
"""Most that a message between caller and warden may take; they carry numbers and names only."""

_FIRST_TICK, _TICK = 0.02, 0.05
_FLOOD = 16 << 20
"""Output beyond its limit that is thrown away before the program is stopped."""
_MOST_REFUSALS = 10_000
_WALL_FACTOR = 4.0
"""How much longer than its limit a program may last that waits for a busy processor."""
_START_SECONDS = 20.0  # until the walls stand; milliseconds, where there is a processor
_CHUNK = 1 << 20


@dataclass(slots=True)
class Stream:
    """One pipe out of the program: where in the output file it goes, and how much came."""

    offset: int
    cap: int
    seen: int = 0


@dataclass(slots=True)
class Watch:
    """A running program, as its warden knows it."""

    pid: int
    limits: dict[str, Any]
    counted: bool
    started: float
    children_before: float
    streams: dict[int, Stream] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    refusals: int = 0
    stopped: str | None = None
    starved: bool = False
    failed: str | None = "the program ended before its walls stood"


class Warden:
    """Serves one caller's requests over a socket, one at a time.

    Args:
        control: messages of a JSON text and descriptors.
        place: walls and folder.
        names: of system calls, by number.
        base_bytes: address space of the fork server.
    """

    def __init__(self, control: socket.socket, place: Place, names: dict[int, str], base_bytes: int) -> None:
        self._control = control
        self._place = place
        self._names = names
        self._base = base_bytes
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def serve(self) -> NoReturn:
        """Run what is asked for until the caller hangs up."""
        child.prepare(self._place.scratch)
        gc.collect()
        gc.freeze()
        gc.disable()
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 8)
            if not message:
                break
            request = json.loads(message)
            if request["do"] != "stop":  # of a program that had just ended
                try:
                    report = self._run(request, descriptors)
                except OSError as error:
                    report = {"failed": f"{type(error).__name__}: {error}"}
                if not self._send({"failed": None, **report}):
                    break
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        os._exit(0)

    def _send(self, report: dict[str, Any]) -> bool:
        try:
            self._control.send(json.dumps(report).encode())
        except OSError:
            return False
        return True

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """One program, from its folder to its report."""
        folder = self._place.scratch
        os.mkdir(folder, 0o700)
        try:
            if self._place.uid is not None:
                os.chown(folder, self._place.uid, self._place.uid)
            watch = self._watched(request, descriptors)
            report = self._report(watch)
            if request.get("collect") and not watch.stopped:
                report["files"] = self._collect(request, descriptors[1], watch)
            return report
        finally:
            scratch.empty(folder)
            os.rmdir(folder)

    def _watched(self, request: dict[str, Any], descriptors: list[int]) -> Watch:
        """Fork the program and see it through: when this returns no process of it is left."""
        limits = request["limits"]
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, streams = self._pipes(request, descriptors, theirs)
        pid = os.fork()
        if pid == 0:
            child.run(self._place, streams, limits, self._base)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Only where several processes are allowed, or memory is none of rlimits' business, is /proc looked at.
        counted = limits["processes"] > 0 or bool(request.get("other"))
        watch = Watch(pid, limits, counted, time.monotonic(), used.ru_utime + used.ru_stime)
        cap = limits["output_bytes"]
        watch.streams = {end: Stream(index * cap, cap) for index, end in enumerate(reading)}
        theirs.close()
        for end in (streams.stdout, streams.stderr, streams.value) if reading else ():
            os.close(end)
        with mine:
            try:
                _Loop(self, watch, mine, descriptors[1] if reading else -1).run()
            finally:
                for end in reading:
                    os.close(end)
        return watch

    def _pipes(
        self, request: dict[str, Any], descriptors: list[int], theirs: socket.socket
    ) -> tuple[list[int], Streams]:
        """The program's ends, and ours to read from; a session's caller reads for itself."""
        if request["do"] == "session":
            payload, commands, stdout, stderr, value = descriptors
            return [], Streams(payload, self._null, stdout, stderr, value, commands, theirs)
        pairs = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        stdin = descriptors[2] if len(descriptors) > 2 else self._null
        stdout, stderr, value = (pair[1] for pair in pairs)
        return [pair[0] for pair in pairs], Streams(descriptors[0], stdin, stdout, stderr, value, -1, theirs)

    def _report(self, watch: Watch) -> dict[str, Any]:
        report: dict[str, Any] = {
            "wall_seconds": time.monotonic() - watch.started,
            "stopped": watch.stopped,
            "starved": watch.starved,
            "failed": watch.failed,
            "refused": watch.refused,
            "sizes": [min(stream.seen, stream.cap) for stream in watch.streams.values()],
            "cut": any(stream.seen > stream.cap for stream in list(watch.streams.values())[:2]),
        }
        return report | watch_end(watch)

    def _collect(self, request: dict[str, Any], output: int, watch: Watch) -> list[list[Any]]:
        """Copy the files asked for behind the output, by the kernel."""
        offset = 3 * watch.limits["output_bytes"]
        found = []
        os.lseek(output, offset, os.SEEK_SET)
        for path in request["collect"]:
            descriptor = scratch.collect(self._place.scratch, path, watch.limits["file_bytes"])
            if descriptor is None:
                continue
            size = 0
            try:
                while sent := os.sendfile(output, descriptor, size, _CHUNK):
                    size += sent
            finally:
                os.close(descriptor)
            found.append([path, offset, size])
            offset += size
        return found


class _Loop:
    """Events of one program until it is over: its end, its output, its calls, its caller, and the clock."""

    def __init__(self, warden: Warden, watch: Watch, handover: socket.socket, output: int) -> None:
        self._warden = warden
        self._watch = watch
        self._handover = handover
        self._output = output
        self._listener = -1
        self._pidfd = os.pidfd_open(watch.pid)
        self._ended = False
        self._poll = select.poll()
        self._actions: dict[int, Callable[[int, int], None]] = {}
        self._on(self._pidfd, self._main_ended)
        self._on(handover.fileno(), self._take_listener)
        self._on(warden._control.fileno(), self._told)
        for end in watch.streams:
            self._on(end, self._move)

    def run(self) -> None:
        """Until no process is left and every pipe is empty."""
        watch = self._watch
        next_tick = watch.started + _FIRST_TICK
        try:
            while not self._ended:
                left = max(0.0, next_tick - time.monotonic())
                self._step(left)
                if time.monotonic() >= next_tick and not self._ended:
                    self._tick()
                    next_tick = time.monotonic() + _TICK
            if self._handover.fileno() in self._actions:
                self._take_listener(self._handover.fileno(), select.POLLIN)
            self._sweep()
            self._drain()
        finally:
            os.close(self._pidfd)
            if self._listener >= 0:
                os.close(self._listener)
            self._actions.clear()  # they refer to this loop, and a warden collects no cycles

    def _on(self, descriptor: int, action: Callable[[int, int], None]) -> None:
        self._actions[descriptor] = action
        self._poll.register(descriptor, select.POLLIN)

    def _off(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._actions[descriptor]

    def _step(self, seconds: float) -> None:
        for descriptor, events in self._poll.poll(int(seconds * 1000) + 1 if seconds > 0 else 0):
            if descriptor in self._actions:
                self._actions[descriptor](descriptor, events)

    def _main_ended(self, descriptor: int, events: int) -> None:
        self._ended = True
        self._off(descriptor)

    def _take_listener(self, descriptor: int, events: int) -> None:
        """The child's only message: its walls stand, or why they do not."""
        message, descriptors, _, _ = socket.recv_fds(self._handover, 4096, 1)
        self._off(descriptor)
        if message == child.WALLS_STAND:
            self._watch.failed = None
            self._watch.started = time.monotonic()  # on a busy machine it may have taken longer than the program has
        elif message:
            self._watch.failed = message.decode(errors="replace")
        if descriptors:
            self._listener = descriptors[0]
            self._on(self._listener, self._judge)

    def _told(self, descriptor: int, events: int) -> None:
        """The caller gives up, or is gone."""
        message = self._warden._control.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        if not message:
            self._off(descriptor)
        self._stop("told")

    def _move(self, descriptor: int, events: int) -> None:
        """Output, by the kernel, into the caller's file; what is too much goes nowhere."""
        stream = self._watch.streams[descriptor]
        room = stream.cap - stream.seen
        if room > 0:
            # Not past the limit in one go: what is beyond has another target.
            moved = os.splice(descriptor, self._output, min(room, _CHUNK), offset_dst=stream.offset + stream.seen)
        else:
            moved = os.splice(descriptor, self._warden._null, _CHUNK)
        if not moved:
            self._off(descriptor)
        stream.seen += moved
        if stream.seen > stream.cap + _FLOOD:
            self._stop("output")

    def _judge(self, descriptor: int, events: int) -> None:
        """A system call that the filter does not allow by itself."""
        if not events & select.POLLIN:
            self._off(descriptor)  # nobody is left behind the filter
            return
        notification = kernel.receive(descriptor)
        if notification is None:
            return
        name = self._warden._names.get(notification.number)
        try:
            verdict = self._verdict(notification, name)
        except Exception:  # a program that could end its warden could have its attempt made again
            verdict = errno.EPERM
        kernel.answer(descriptor, notification, verdict)

    def _verdict(self, notification: kernel.Notification, name: str | None) -> int:
        """What the kernel is told, see ``kernel.answer``."""
        watch, arguments = self._watch, notification.arguments
        if name in ("clone", "fork", "vfork"):
            verdict = self._new_task(notification, arguments[0] if name == "clone" else 0)
            if verdict is not None:
                return verdict
        elif name == "chmod" or (name == "fchmodat" and arguments[0] & 0xFFFFFFFF == chmod.AT_FDCWD):
            path, mode = arguments[:2] if name == "chmod" else arguments[1:3]
            done = chmod.chmod_for(notification.pid, self._warden._place.scratch, path, mode & 0xFFFF)
            if done != errno.EPERM:
                return done
        shown = name or f"system call {notification.number}"
        if shown not in watch.refused and len(watch.refused) < 100:
            watch.refused.append(shown)
        watch.refusals += 1
        if watch.refusals > _MOST_REFUSALS:
            self._stop("refusals")
        return errno.EPERM if name else errno.ENOSYS

    def _new_task(self, notification: kernel.Notification, flags: int) -> int | None:
        """A thread or a process, as long as there are not too many; None: not to be had at all."""
        limits = self._watch.limits
        if self._watch.stopped or self._ended:
            return errno.EAGAIN
        if flags & NEW_NAMESPACES:
            return None
        if flags & CLONE_THREAD:
            return errno.EAGAIN if proc.threads(notification.pid) > limits["threads"] else kernel.GO_ON
        if not limits["processes"]:
            return None
        return errno.EAGAIN if self._processes() > limits["processes"] else kernel.GO_ON

    def _processes(self) -> int:
        """Processes of the program, itself among them; orphans that are done are taken away first."""
        found = 0
        for pid in proc.descendants(os.getpid()):
            if pid != self._watch.pid and proc.state(pid) == "Z":
                with contextlib.suppress(OSError):  # not ours: its own parent still lives
                    os.waitpid(pid, os.WNOHANG)
            found += 1
        return found

    def _tick(self) -> None:
        """Look at what no event tells: CPU and wall time, memory of all, disk."""
        watch, limits = self._watch, self._watch.limits
        pids = proc.descendants(os.getpid()) if watch.counted else [watch.pid]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        reaped = used.ru_utime + used.ru_stime - watch.children_before
        if reaped + sum(map(proc.cpu_seconds, pids)) > limits["cpu_seconds"]:
            self._stop("cpu")
        if watch.counted and sum(map(proc.memory_bytes, pids)) > limits["memory_bytes"]:
            self._stop("memory")
        used_bytes, files = scratch.usage(self._warden._place.scratch, int(limits["files"]))
        used_bytes += sum(map(scratch.hidden_usage, pids))
        if used_bytes > limits["disk_bytes"] or files > limits["files"]:
            self._stop("disk")
        lasted = time.monotonic() - watch.started
        if watch.failed is not None:  # its walls do not stand yet: nothing of its own runs
            if lasted > _START_SECONDS:
                self._stop("wall")
        elif lasted > limits["wall_seconds"]:
            queued = max(map(proc.queued_seconds, pids), default=0.0)
            if lasted - queued > limits["wall_seconds"]:
                self._stop("wall")
            elif lasted > _WALL_FACTOR * limits["wall_seconds"]:
                watch.starved = True
                self._stop("wall")

    def _stop(self, why: str) -> None:
        watch = self._watch
        if watch.stopped is None:
            watch.stopped = why
        if not self._ended:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _sweep(self) -> None:
        """Kill and take away every process that is left. The warden is their reaper, and grants no new ones."""
        if self._watch.limits["processes"] == 0:
            return
        while left := [pid for pid in proc.descendants(os.getpid()) if pid != self._watch.pid]:
            for pid in left:
                with contextlib.suppress(OSError):
                    resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            for pid in left:
                with contextlib.suppress(OSError):  # not our child yet: it will be, when its parent is gone
                    os.waitpid(pid, os.WNOHANG)
            self._step(0.001)

    def _drain(self) -> None:
        """The rest of the output. Nobody can write any more, so every pipe has an end."""
        while any(end in self._actions for end in self._watch.streams):
            self._step(0.1)


def watch_end(watch: Watch) -> dict[str, Any]:
    """How the first process ended, and what all used. Takes it away."""
    _, status = os.waitpid(watch.pid, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = os.waitstatus_to_exitcode(status)
    cpu_seconds = used.ru_utime + used.ru_stime - watch.children_before
    report: dict[str, Any] = {
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "cpu_seconds": cpu_seconds,
    }
    killed = code == -signal.SIGKILL and watch.stopped is None and cpu_seconds > watch.limits["cpu_seconds"]
    if killed or code == -signal.SIGXCPU:  # by the kernel, where a busy machine let no tick come in time
        report["stopped"] = "cpu"
    return report
