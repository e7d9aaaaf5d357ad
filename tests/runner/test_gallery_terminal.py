"""How installations look: the bar in a terminal, and the lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from rich.console import Console

from tests.gallery.http_server import HttpServer, Page, http_server
from tests.runner.galleries import Place, archive
from tests.runner.running import TRIO_SUP
from trio_sup import InstallPhase, InstallProgress
from trio_sup.runner._install_bar import line
from trio_sup.runner._install_display import InstallNews

MIB = 2**20
ESCAPES = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")


# ---- in a terminal, really


@attrs.define(eq=False)
class Terminal:
    """`trio-sup` on a terminal of its own, with what it wrote there."""

    process: trio.Process
    written: str = ""
    news: trio.Event = attrs.field(factory=trio.Event)

    @property
    def frames(self) -> list[str]:
        """What was drawn over one another."""
        return [ESCAPES.sub("", frame).strip() for frame in re.split(r"\x1b\[2K|[\r\n]+", self.written)]

    async def read(self, terminal: trio.lowlevel.FdStream) -> None:
        # At the end of all who write there, reading fails.
        try:
            async for data in terminal:
                self.written += data.decode()
                self.news.set()
        except trio.BrokenResourceError:
            pass

    async def shows(self, pattern: str) -> str:
        while True:
            for frame in self.frames:
                if re.fullmatch(pattern, frame):
                    return frame
            self.news = trio.Event()
            await self.news.wait()


@asynccontextmanager
async def on_terminal(place: Place, *arguments: str, columns: int, **more: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**place.environment, "TERM": "xterm-256color", **more}
    process = await trio.lowlevel.open_process(
        [*TRIO_SUP, *arguments],
        cwd=place.folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    terminal = Terminal(process)
    async with trio.lowlevel.FdStream(ours) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(terminal.read, stream)
        try:
            yield terminal
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


def offer(place: Place, server: HttpServer, *, stalls: bool = False) -> None:
    body = archive("9", size=3 * MIB)
    server.pages["/big.tar.gz"] = Page(body=body, stall_after=[len(body) // 2] if stalls else [])
    place.offer({"name": "big", "version": "9", "uri": f"{server.url}/big.tar.gz"})


async def test_a_description_is_as_wide_as_the_terminal(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    place.offer({"name": "big", "uri": "https://gallery.example/big.tar.gz", "description": "words " * 40})
    with trio.fail_after(60):
        async with on_terminal(place, "gallery", "show", "big", columns=50) as terminal:
            assert await terminal.process.wait() == 0
            await terminal.shows("installed .*")
    lines = [frame for frame in terminal.frames if frame.startswith("words")]
    assert len(lines) == 5
    assert max(map(len, lines)) == 47


async def test_a_bar_grows_and_is_gone_at_the_end(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            offer(place, server)
            async with on_terminal(place, "install", "big", columns=90) as terminal:
                assert await terminal.process.wait() == 0
                await terminal.shows("big 9 is installed: .*")
    assert any(
        re.fullmatch(r"big  downloading  ━*[╸╺]?━* +\d+%  [\d.]+ of 3.0 MiB.*", each) for each in terminal.frames
    )
    assert any(each.startswith("big  unpacking  ") for each in terminal.frames)
    # Where it came from stays.
    assert re.search(rf"trio-sup: big: resolving {server.url}/big.tar.gz, which nothing proves\r?\n", terminal.written)
    assert all(len(frame) <= 90 for frame in terminal.frames[:-2])
    shown, hidden = terminal.written.rindex("\x1b[?25h"), terminal.written.rindex("\x1b[?25l")
    assert shown > hidden  # the cursor


async def test_ctrl_c_gives_the_terminal_back(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    with trio.fail_after(60):
        async with http_server() as server:
            offer(place, server, stalls=True)
            async with on_terminal(place, "install", "big", columns=40, NO_COLOR="1") as terminal:
                await terminal.shows(r"big  downloading  ━*[╸╺]?━* +\d+%|big \d+% downloading")
                terminal.process.send_signal(signal.SIGINT)
                assert await terminal.process.wait() == 130
                await terminal.shows("trio-sup: big was not installed: interrupted.*")
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")
    assert not re.search(r"\x1b\[[\d;]+m", terminal.written.replace("\x1b[0m", ""))  # no colours


async def test_a_terminal_that_cannot_draw_gets_lines(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    place.offer(place.entry("small", "1"))
    with trio.fail_after(60):
        async with on_terminal(place, "install", "small", columns=80, TERM="dumb") as terminal:
            assert await terminal.process.wait() == 0
            await terminal.shows("small 1 is installed: .*")
    assert "\x1b" not in terminal.written
    assert "trio-sup: small: resolving" in terminal.frames


# ---- the line


def drawn(progress: InstallProgress, width: int, quiet: float = 0.0) -> str:
    console = Console(width=width)
    (only,) = console.render_lines(line(progress, quiet, width))
    text = "".join(segment.text for segment in only)
    assert len(text) <= width
    return text.rstrip()


HALF = InstallProgress(
    backend="chat", phase=InstallPhase.DOWNLOADING, done_bytes=120 * MIB, total_bytes=400 * MIB, rate=4.0 * MIB
)


@pytest.mark.parametrize(
    ("width", "pattern"),
    [
        (100, r"chat  downloading  ━*[╸╺]?[━ ]* 30%  120.0 of 400.0 MiB  4.0 MiB/s  1:10"),
        (70, r"chat  downloading  ━*[╸╺]?[━ ]* 30%  4.0 MiB/s  1:10"),
        (50, r"chat  downloading  ━*[╸╺]?[━ ]* 30%"),
        (30, r"chat 30% downloading"),
        (14, r"chat 30% down…"),
    ],
)
def test_a_line_shows_what_there_is_room_for(width: int, pattern: str) -> None:
    assert re.fullmatch(pattern, drawn(HALF, width))


def test_a_speed_is_no_longer_shown_when_nothing_comes() -> None:
    assert drawn(HALF, 100, quiet=7.2).endswith("no news for 7 s")
    unknown = attrs.evolve(HALF, total_bytes=None)
    assert drawn(unknown, 80) == "chat  downloading  120.0 MiB  4.0 MiB/s"
    assert drawn(unknown, 80, quiet=9).endswith("no news for 9 s")


def test_what_is_waited_for_is_said_as_far_as_there_is_room() -> None:
    waiting = InstallProgress(backend="chat", phase=InstallPhase.WAITING, detail="another installation of chat")
    assert drawn(waiting, 80, quiet=60) == "chat  waiting for another installation of chat"
    assert drawn(waiting, 30) == "chat  waiting for another ins…"


def test_very_long_waits_are_not_told() -> None:
    assert drawn(attrs.evolve(HALF, rate=10.0), 100).endswith("120.0 of 400.0 MiB  10 B/s")
    assert drawn(attrs.evolve(HALF, rate=40 * 1024.0), 100).endswith("40.0 KiB/s  1:59:28")


# ---- lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_phase_is_told_and_then_each_tenth_of_it_but_not_too_often(clock: Clock) -> None:
    news = InstallNews(clock)
    told = []
    for percent in range(101):
        clock.now = percent * 0.5
        told.append(news.text(attrs.evolve(HALF, done_bytes=4 * percent * MIB)))
    texts = [text for text in told if text is not None]
    assert texts[:2] == [
        "chat: downloading, 0%, 0.0 of 400.0 MiB, 4.0 MiB/s",
        "chat: downloading, 10%, 40.0 of 400.0 MiB, 4.0 MiB/s",
    ]
    assert len(texts) == 11
    assert news.text(attrs.evolve(HALF, phase=InstallPhase.UNPACKING)) is not None
    assert news.text(attrs.evolve(HALF, phase=InstallPhase.UNPACKING, done_bytes=300 * MIB)) is None  # too soon


def test_while_nobody_knows_the_size_it_is_told_now_and_then(clock: Clock) -> None:
    news = InstallNews(clock)
    unknown = attrs.evolve(HALF, total_bytes=None)
    assert news.text(unknown) == "chat: downloading, 120.0 MiB, 4.0 MiB/s"
    clock.now = 60
    assert news.text(unknown) is None  # nothing has come
    assert news.text(attrs.evolve(unknown, done_bytes=121 * MIB)) == "chat: downloading, 121.0 MiB, 4.0 MiB/s"
    clock.now = 61
    assert news.text(attrs.evolve(unknown, done_bytes=122 * MIB)) is None


def test_what_is_waited_for_is_told_when_it_changes(clock: Clock) -> None:
    news = InstallNews(clock)
    waiting = InstallProgress(backend="chat", phase=InstallPhase.WAITING, detail="a")
    assert [news.text(each) for each in (waiting, waiting, attrs.evolve(waiting, detail="b"))] == [
        "chat: waiting for a",
        None,
        "chat: waiting for b",
    ]


def test_several_at_once_and_one_after_the_other_are_told_apart(clock: Clock) -> None:
    news = InstallNews(clock)
    other = attrs.evolve(HALF, backend="other")
    assert news.text(HALF)
    assert news.text(other)
    assert news.text(HALF) is None
    assert news.text(attrs.evolve(HALF, phase=InstallPhase.DONE)) is None
    assert news.text(HALF)
