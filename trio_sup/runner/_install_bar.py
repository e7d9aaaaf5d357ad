"""How far an installation has come, as a bar in a terminal."""

from __future__ import annotations

import time

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from .._releases import InstallPhase, InstallProgress
from ._install_display import Display, amount, in_words, rate

APART = 0.1
"""Seconds between two frames of one phase, at least."""
QUIET = 5.0
"""Seconds without news after which that is said, in place of a speed that is no longer true."""
WITH_AMOUNT, WITH_SPEED, WITH_BAR = 76, 54, 28
"""Columns beside the name from which each of these is shown."""
NARROWEST_BAR = 6
MOST_HOURS = 99
"""Beyond, nobody wants to know how long the rest takes."""


class Bar(Display):
    """One line that is drawn again with the reports, and taken away at the end; it is the caller's to say how it went.

    No thread and no timer of its own draws it.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._progress: InstallProgress | None = None
        self._told_at = self._drawn_at = 0.0

    def report(self, progress: InstallProgress) -> None:
        """See `Display.report`."""
        known, now = self._progress, time.monotonic()
        self._progress, self._told_at = progress, now
        if progress.phase is InstallPhase.DONE:
            return
        if progress.phase is InstallPhase.RESOLVING and progress.detail:
            # Where it comes from, and whether anything proves it, is to be read afterwards as well.
            self._say(f"{progress.backend}: {in_words(progress)}")
            return
        same = known is not None and (known.backend, known.phase) == (progress.backend, progress.phase)
        if not same or now - self._drawn_at >= APART:
            self._draw()

    def tick(self) -> None:
        """See `Display.tick`."""
        if self._progress is not None and self._progress.phase is not InstallPhase.DONE:
            self._draw()

    def warn(self, text: str) -> None:
        """See `Display.warn`."""
        self._say(f"warning: {text}")

    def _say(self, text: str) -> None:
        # Above the line, while there is one.
        self._console.print(f"trio-sup: {text}", soft_wrap=True)

    def close(self) -> None:
        """See `Display.close`."""
        self._live.stop()

    def _draw(self) -> None:
        assert self._progress is not None
        self._drawn_at = time.monotonic()
        if not self._live.is_started:
            self._live.start()
        quiet = self._drawn_at - self._told_at
        self._live.update(line(self._progress, quiet, self._console.width), refresh=True)


def line(progress: InstallProgress, quiet: float, width: int) -> RenderableType:
    """What to draw in a terminal of *width* columns, *quiet* seconds after the last report."""
    name, doing = progress.backend, in_words(progress)
    if progress.fraction is None:
        parts = [name, doing]
        if progress.done_bytes:
            parts += [amount(progress), rate(progress)]
        if quiet >= QUIET and progress.phase is not InstallPhase.WAITING:
            parts.append(f"no news for {quiet:.0f} s")
        return Text("  ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
    share = f"{progress.fraction:4.0%}"
    longest_name = max(width // 3, 8)
    free = width - min(len(name), longest_name)
    if free < WITH_BAR:
        return Text(f"{name} {share.strip()} {doing}", no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=1.0, completed=progress.fraction)
    cells: list[RenderableType] = [name, doing, bar, share]
    columns = [
        Column(no_wrap=True, max_width=longest_name),
        Column(no_wrap=True),
        Column(ratio=1, min_width=NARROWEST_BAR),
        Column(no_wrap=True),
    ]
    if free >= WITH_AMOUNT:
        cells.append(amount(progress))
        columns.append(Column(no_wrap=True, justify="right"))
    if free >= WITH_SPEED:
        cells.append(_speed(progress, quiet))
        columns.append(Column(no_wrap=True, justify="right"))
    drawn = Table.grid(*columns, padding=(0, 2, 0, 0), expand=True, pad_edge=False)
    drawn.add_row(*cells)
    return drawn


def _speed(progress: InstallProgress, quiet: float) -> str:
    """How fast it goes, and how long that would take for the rest."""
    if quiet >= QUIET:
        return f"no news for {quiet:.0f} s"
    speed = rate(progress)
    if not speed or progress.total_bytes is None:
        return speed
    left = round(max(progress.total_bytes - progress.done_bytes, 0) / progress.rate)
    minutes, seconds = divmod(left, 60)
    hours, minutes = divmod(minutes, 60)
    if hours > MOST_HOURS:
        return speed
    return f"{speed}  {hours}:{minutes:02}:{seconds:02}" if hours else f"{speed}  {minutes}:{seconds:02}"
