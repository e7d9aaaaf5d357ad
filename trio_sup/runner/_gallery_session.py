"""What the commands for galleries and releases have in common: an installer, without a supervisor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable

import attrs
import trio

from ..engine._gallery_parts import detected, lock_choice, make_installer
from ..errors import InvalidValue
from ..gallery._installing import Installer
from ._gallery_setup import GallerySetup
from ._logging import shown_log
from ._signals import Signals, end_signals
from ._stderr import say, warn

TICK = 0.5
"""Seconds between two looks of a display at whether anything happens."""
LOGGER = "trio_sup.gallery"
"""What most of it is logged under; who reads it knows anyway what it is about."""
SHOW_CURSOR = "\x1b[?25h"

Work = Callable[[Installer], Awaitable[int]]


def with_installer(
    setup: GallerySetup,
    work: Work,
    *,
    tick: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = warn,
) -> int:
    """Run *work*, which returns the exit status, with what installs from the galleries of *setup*.

    The first SIGINT, SIGTERM or SIGHUP cancels it; a second one exits at once, and what is left half done is repaired
    by the next command.

    Args:
        tick: Called twice a second.
        warn: Told of what is logged as a warning.

    Returns:
        What *work* returned, also if it came to its end in spite of a signal; 128 + *n* after signal *n*; 2 if a name
        or another argument makes no sense; 1 if the system refuses something.
    """
    return trio.run(_run, setup, work, tick, warn)


async def _run(setup: GallerySetup, work: Work, tick: Callable[[], None], warn: Callable[[str], None]) -> int:
    session = _Session(end_signals())
    with shown_log(lambda text: warn(text.removeprefix(f"{LOGGER}: "))):
        try:
            await _work(setup, work, tick, session)
        finally:
            await _told()
    if session.status is not None:
        return session.status
    assert session.ended_by is not None
    return 128 + session.ended_by


async def _told() -> None:
    """Wait until what was logged is shown: that happens in order."""
    told = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(told.set)
    await told.wait()


async def _work(setup: GallerySetup, work: Work, tick: Callable[[], None], session: _Session) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.watch_signals)
        nursery.start_soon(_call_often, tick)
        with session.scope:
            try:
                session.status = await work(await _installer(setup))
            except InvalidValue as error:
                say(reason(error))
                session.status = 2
            except BrokenPipeError:
                raise
            except OSError as error:
                say(reason(error))
                session.status = 1
        nursery.cancel_scope.cancel(reason="the work is done")


async def _installer(setup: GallerySetup) -> Installer:
    galleries = await detected(setup.galleries)
    return make_installer(galleries, setup.plugins, lock_choice(setup.install_lock, galleries))


async def _call_often(tick: Callable[[], None]) -> None:
    while True:
        await trio.sleep(TICK)
        tick()


def reason(error: BaseException) -> str:
    """What to tell people of *error*."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@attrs.define
class _Session:
    signals: Signals
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended_by: signal.Signals | None = None
    status: int | None = None

    async def watch_signals(self) -> None:
        self.ended_by = await self.signals.next()
        self.scope.cancel(reason=self.ended_by.name)
        second = await self.signals.next()
        if sys.stderr.isatty():
            os.write(2, SHOW_CURSOR.encode())
        os._exit(128 + second)
