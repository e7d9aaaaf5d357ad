"""Signals as values to wait for."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from types import FrameType

import trio


class Signals:
    """From now on and until the process ends, *numbers* do nothing but arrive here, in order.

    (`trio.open_signal_receiver` raises those that nobody asked for again at its end: a second Ctrl-C that comes while
    the last lines are written would then decide about the exit status.)
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._arrived: deque[signal.Signals] = deque()
        self._news = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        for number in numbers:
            signal.signal(number, self._handle)

    async def next(self) -> signal.Signals:
        """Wait for a signal, and take it."""
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            self._news = trio.Event()
            await self._news.wait()
        return self._arrived.popleft()

    def _handle(self, number: int, _: FrameType | None) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._note, signal.Signals(number))

    def _note(self, number: signal.Signals) -> None:
        self._arrived.append(number)
        self._news.set()


def end_signals() -> Signals:
    """Those that end a command: SIGINT, SIGTERM, and SIGHUP unless it is ignored."""
    # Under nohup the end of the terminal is not to be the end of the command.
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return Signals(signal.SIGINT, signal.SIGTERM, *hangup)
