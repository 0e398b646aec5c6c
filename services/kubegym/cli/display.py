"""What a run shows while it works: a live line on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from kubegym.rollout import Progress

PLAIN_SECONDS = 5.0
"""Between two plain lines."""

_WINDOW = 30.0  # seconds over which the rate is taken


class RunDisplay(Protocol):
    """``local.localrun.Display``, and what the worker's process adds: a pulse, the stop, the end."""

    def validating(self, rows: int) -> None:
        """So many rows are checked."""
        ...

    def began(self, output: str, progress: Progress) -> None:
        """The run works; ``progress`` changes while it does."""
        ...

    def pulse(self) -> None:
        """A fraction of a second passed."""
        ...

    def stopping(self) -> None:
        """A signal came; the run ends soon."""
        ...

    def merging(self) -> None:
        """All is settled; the files are being written."""
        ...

    def close(self) -> None:
        """Show the last state and leave the terminal as it was."""
        ...


class Rate:
    """Rollouts a second over the last half minute."""

    def __init__(self, settled: int, now: float) -> None:
        self._seen: deque[tuple[float, int]] = deque([(now, settled)])

    def add(self, settled: int, now: float) -> None:
        """So many are settled now."""
        self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW:
            self._seen.popleft()

    def value(self) -> float:
        """Rollouts a second; 0 while nothing is known."""
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:00:05``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def failures_text(failures: dict[str, int], shown: int = 3) -> str:
    """``3 (ModelTimeout 2, ToolCrashed 1)``, the most frequent first."""
    ordered = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{reason} {count:,}" for reason, count in ordered[:shown]]
    if len(ordered) > shown:
        names.append(f"{len(ordered) - shown} more")
    total = f"{sum(failures.values()):,}"
    return f"{total} ({', '.join(names)})" if names else total


def pace(progress: Progress, rate: float) -> list[str]:
    """How far a run at work is, and how fast."""
    settled = progress.totals.settled
    said = [f"{settled:,}/{progress.expected:,} done", f"{rate:.1f} rollouts/s"]
    left = progress.expected - settled
    if left > 0:
        said.append(f"ETA {duration(left / rate)}" if rate > 0 else "ETA -")
    return said


def outcome(progress: Progress) -> list[str]:
    """What came out so far, and what is going on."""
    totals = progress.totals
    said = [f"mean reward {totals.reward / totals.scored:.3f}" if totals.scored else "mean reward -"]
    said += [f"failed {failures_text(totals.failures)}", f"{progress.in_flight:,} in flight"]
    if progress.retries:
        said.append(f"{progress.retries:,} retries")
    return said


class PlainDisplay:
    """Lines for logs and pipes.

    Args:
        stream: where they go.
        clock: monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._progress: Progress | None = None
        self._rate = Rate(0, 0.0)
        self._next = 0.0
        self._last = ""

    def validating(self, rows: int) -> None:
        """A line when it takes long."""
        now = self._clock()
        if not self._next:
            self._next = now + PLAIN_SECONDS
        elif now >= self._next:
            self._next = now + PLAIN_SECONDS
            self._say(f"checking rows: {rows:,}")

    def began(self, output: str, progress: Progress) -> None:
        """Where it writes."""
        self._progress = progress
        self._rate = Rate(progress.totals.settled, self._clock())
        self._next = self._clock() + PLAIN_SECONDS
        self._say(f"collecting into {output}")

    def pulse(self) -> None:
        """A line every few seconds."""
        now = self._clock()
        if self._progress is not None and now >= self._next:
            self._next = now + PLAIN_SECONDS
            self._state(now)

    def stopping(self) -> None:
        """Say so."""
        self._say(STOPPING_TEXT)

    def merging(self) -> None:
        """The last state, and what comes now."""
        self.close()
        self._say("writing files")

    def close(self) -> None:
        """The last state, if it was not said yet."""
        if self._progress is not None:
            self._state(self._clock())
            self._progress = None

    def _state(self, now: float) -> None:
        assert self._progress is not None
        self._rate.add(self._progress.totals.settled, now)
        self._say(", ".join(pace(self._progress, self._rate.value()) + outcome(self._progress)))

    def _say(self, line: str) -> None:
        if line != self._last:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            self._last = line


STOPPING_TEXT = "stopping: saving what is finished (once more ends it at once)"


class QuietDisplay:
    """Shows nothing (``--quiet``)."""

    def validating(self, rows: int) -> None:
        """Nothing."""

    def began(self, output: str, progress: Progress) -> None:
        """Nothing."""

    def pulse(self) -> None:
        """Nothing."""

    def stopping(self) -> None:
        """Nothing."""

    def merging(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LiveDisplay:
    """A bar and a line that are redrawn in place; logs and other output scroll by above them.

    Args:
        stream: the terminal.
        clock: monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._rate = Rate(0, 0.0)
        self._note = ""
        self._started = 0.0

    def validating(self, rows: int) -> None:
        """So many rows are checked."""
        self._note = f"checking rows: {rows:,}"
        self.pulse()

    def began(self, output: str, progress: Progress) -> None:
        """Draw the bar."""
        self._progress = progress
        self._started = self._clock()
        self._rate = Rate(progress.totals.settled, self._started)
        self._note = ""
        self.pulse()
        self._open().console.print(f"collecting into {output}", markup=False, highlight=False, soft_wrap=True)

    def pulse(self) -> None:
        """Draw anew."""
        now = self._clock()
        if self._progress is not None:
            self._rate.add(self._progress.totals.settled, now)
        self._open().update(self._drawing(now), refresh=True)

    def stopping(self) -> None:
        """Say so under the bar."""
        self._note = STOPPING_TEXT
        self.pulse()

    def merging(self) -> None:
        """Say so under the bar."""
        self._note = "writing files"
        self.pulse()

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        if self._live is not None:
            self._note = ""
            self.pulse()
            self._live.stop()
            self._live = None

    def _open(self) -> Live:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            # No thread: the event loop's pulse draws, so that a fork or a crash never finds a lock held.
            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=False)
            self._live.start()
        return self._live

    def _drawing(self, now: float) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        progress = self._progress
        if progress is not None:
            bar = ProgressBar(total=max(1, progress.expected), completed=progress.totals.settled, width=24)
            line = Text(" · ".join(pace(progress, self._rate.value())))
            line.append(f" · {duration(now - self._started)}", style="dim")
            grid.add_row(bar, line)
            grid.add_row(Text(""), Text(" · ".join(outcome(progress))))
        if self._note:
            grid.add_row(Text(""), Text(self._note, style="dim"))
        return grid


def display_for(stream: TextIO, *, quiet: bool) -> RunDisplay:
    """The display that fits a stream."""
    if quiet:
        return QuietDisplay()
    return LiveDisplay(stream) if stream.isatty() else PlainDisplay(stream)
