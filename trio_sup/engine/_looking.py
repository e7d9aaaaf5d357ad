"""What a supervisor tells of its backends: which there are, how they ended, what happens, what they write."""

from __future__ import annotations

import time
from typing import Literal, overload

import trio

from .._log_lines import LogLine
from .._phases import Phase
from .._reports import Backend, ExitReport
from .._values import BackendSpec, ProcessKey, to_identifier, to_key
from ._event_stream import EventHub, EventStream
from ._log_reader import LogFollower
from ._logs import Logs
from ._records import Records
from ._slots import SlotTable


class Looking:
    """The part of [`Supervisor`][trio_sup.Supervisor] that changes nothing."""

    def __init__(self, *, table: SlotTable, records: Records, hub: EventHub, logs: Logs) -> None:
        self._table = table
        self._records = records
        self._hub = hub
        self._logs = logs

    @property
    def backends(self) -> tuple[Backend, ...]:
        """A snapshot of every slot that is not gone, sorted by key."""
        now, wall_clock = trio.current_time(), time.time()
        return tuple(
            slot.snapshot(now=now, wall_clock=wall_clock) for slot in sorted(self._table, key=lambda slot: slot.key)
        )

    @property
    def defined(self) -> tuple[Backend, ...]:
        """A snapshot of every backend that is defined, whether it runs or not, sorted by key.

        Those that have a slot are as in `backends`. Those that are gone, or were never started, are in phase GONE and
        say in `why` how the last attempt ended, if there was one.
        """
        slots = {backend.key: backend for backend in self.backends}
        defined = sorted(self._table.defined.items(), key=lambda item: item[0])
        return tuple(slots.get(key) or self._gone(key, spec) for key, spec in defined)

    def _gone(self, key: ProcessKey, spec: BackendSpec) -> Backend:
        reports = self._records.reports_of(key)
        generation, why = (reports[-1].generation, str(reports[-1])) if reports else (0, None)
        return Backend(key=key, generation=generation, phase=Phase.GONE, spec=spec, why=why)

    def resolve(self, identifier: ProcessKey | str) -> tuple[ProcessKey, ...]:
        """The keys that *identifier* means: an exact key, a model (its replicas), or a backend name or alias.

        A text with ``#`` that is no exact key means nothing.

        Raises:
            InvalidValue: *identifier* is neither text nor a key.
        """
        return self._table.resolve(to_identifier(identifier))

    def is_running(self, identifier: ProcessKey | str) -> bool:
        """Whether *identifier* means at least one live process that is not on its way to the end."""
        return any(self._table[key].is_live() for key in self.resolve(identifier))

    def get_address(self, key: ProcessKey | str) -> str | None:
        """``host:port`` of a READY backend, else None.

        Raises:
            InvalidValue: *key* is not a process key.
        """
        slot = self._table.get(to_key(key))
        return slot.address() if slot is not None and slot.is_ready() else None

    def exit_reports(self, key: ProcessKey | str) -> tuple[ExitReport, ...]:
        """How the last attempts (at most 20) of *key* ended, oldest first; also when the supervisor has ended.

        With a state directory those of earlier supervisors are among them.
        """
        return self._records.reports_of(to_key(key))

    def events(self) -> EventStream:
        """Observe everything that happens from now on; ends with the supervisor."""
        return self._hub.stream()

    @overload
    def logs(self, key: ProcessKey | str, *, lines: int | None = None) -> tuple[LogLine, ...]: ...
    @overload
    def logs(
        self, key: ProcessKey | str, *, lines: int | None = None, follow: Literal[False]
    ) -> tuple[LogLine, ...]: ...
    @overload
    def logs(self, key: ProcessKey | str, *, lines: int | None = None, follow: Literal[True]) -> LogFollower: ...
    @overload
    def logs(
        self, key: ProcessKey | str, *, lines: int | None = None, follow: bool
    ) -> tuple[LogLine, ...] | LogFollower: ...

    @trio.lowlevel.enable_ki_protection
    def logs(
        self, key: ProcessKey | str, *, lines: int | None = None, follow: bool = False
    ) -> tuple[LogLine, ...] | LogFollower:
        """What *key* wrote, in all its attempts, as far as it is kept: `LogSettings.ring_bytes` says how much is.

        The output of a key that has no slot any more is kept too, for the last 100 of them.

        Args:
            key: A process key; one that never wrote anything is fine.
            lines: Only so many lines, the newest ones; None means all that are kept.
            follow: Go on with every line that ends from now on, after restarts of the slot too, until the supervisor
                has ended.

        Returns:
            The lines, oldest first; the beginning of a line that has not ended is the last one. With *follow*, an
            async iterator of lines that have ended (by a line end, at 64 KiB, or with their attempt), which has no
            gap and says nothing twice. If it is read too slowly, there is a `LinesLost` where lines are missing.

        Raises:
            InvalidValue: *key* is not a process key, or *lines* not a number.
        """
        return self._logs.follow(to_key(key), lines) if follow else self._logs.read(to_key(key), lines)
