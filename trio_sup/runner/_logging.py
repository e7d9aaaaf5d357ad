"""The library's log, shown among the lines of the runner."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import trio

from ..events import Event


class _Lines(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        # Events are shown already, by their observer.
        if isinstance(record.args, tuple) and any(isinstance(part, Event) for part in record.args):
            return
        text = f"{record.name}: {self.format(record)}"
        # Any thread may log, only Trio's may write; and without a handler Python would write to stderr and wait for it.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._show, text)


@contextlib.contextmanager
def shown_log(show: Callable[[str], None]) -> Iterator[None]:
    """Hand warnings and errors that are logged to *show* for the length of the block, inside a Trio run."""
    handler = _Lines(show)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
