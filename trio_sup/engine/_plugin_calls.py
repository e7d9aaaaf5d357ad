"""Synchronous calls into plugins: trusted to be quick, timed, and named when they are not.

They cannot be interrupted. A call that took too long is named in an event; while one blocks, a watchdog thread says so
in the log, since the event loop cannot.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TypeVar

import attrs

from .._values import BackendSpec
from ..strategies import StopPolicy, WarmUp
from ._raised import contained

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("trio_sup.plugins")

QUICK = 0.05
"""Seconds that a synchronous call may take without being named."""

BLOCKING = 1.0
"""Seconds after which the watchdog names a call that is still under way."""

_BUILT_IN = "trio_sup.defaults"


@attrs.frozen
class _Call:
    plugin: str
    what: str
    began_at: float


class NoBudget(Exception):
    """A strategy does not say how long it may take; the text says what it did instead."""


class PluginCalls:
    """Times the synchronous calls into plugins of one supervisor.

    Args:
        on_slow: Told plugin, what was called, and the seconds it took.
    """

    def __init__(self, on_slow: Callable[[str, str, float], None]) -> None:
        self._on_slow = on_slow
        # Written by the loop's thread and read by the watchdog: one reference, swapped whole.
        self._current: _Call | None = None
        self._closed = threading.Event()
        self._watchdog: threading.Thread | None = None

    def call(self, plugin: str, what: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *fn*, which is *what* in *plugin*, and time it.

        Raises:
            Exception: What it raised, in a form that can be shown; only KeyboardInterrupt stays what it is.
            TypeError: It is asynchronous, so that calling it does nothing.
        """
        try:
            with self._timed(plugin, what):
                answer = fn(*args, **kwargs)
        except BaseException as error:
            own = contained(error)
            if own is error:
                raise
            raise own from error
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("it is asynchronous, and has to be a plain function")
        return answer

    @contextmanager
    def _timed(self, plugin: str, what: str) -> Iterator[None]:
        if plugin.startswith(_BUILT_IN):
            # On a crowded machine any call takes long once in a while; that is no news about a built-in one.
            yield
            return
        if self._watchdog is None:
            watchdog = threading.Thread(target=self._watch, name="trio-sup plugin watchdog", daemon=True)
            with suppress(RuntimeError):  # no thread can be started now; the next call tries again
                watchdog.start()
                self._watchdog = watchdog
        outer, self._current = self._current, _Call(plugin, what, time.monotonic())
        call = self._current
        try:
            yield
        finally:
            self._current = outer
            took = time.monotonic() - call.began_at
            if took > QUICK:
                self._on_slow(plugin, what, took)

    def budget_of(self, plugin: str, strategy: StopPolicy | WarmUp, spec: BackendSpec) -> float:
        """Ask the *strategy* of *plugin* how many seconds it may take for *spec*.

        Raises:
            NoBudget: It failed, or what it said is no length of time.
        """
        try:
            budget = float(self.call(plugin, "budget()", strategy.budget, spec))
        except Exception as error:
            raise NoBudget(f"its budget() raised {error!r}") from error
        if not (math.isfinite(budget) and budget >= 0):
            raise NoBudget(f"its budget() returned {budget!r}")
        return budget

    def close(self) -> None:
        """End the watchdog; waits for it."""
        self._closed.set()
        if self._watchdog is not None:
            self._watchdog.join(timeout=BLOCKING)

    def _watch(self) -> None:
        named: _Call | None = None
        while not self._closed.wait(BLOCKING / 4):
            call = self._current
            if call is not None and call is not named and time.monotonic() - call.began_at > BLOCKING:
                named = call
                _log.error(
                    "plugin %s blocks the supervisor in %s for more than %g s; nothing else runs meanwhile",
                    call.plugin,
                    call.what,
                    BLOCKING,
                )
