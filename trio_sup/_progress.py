"""Whether the processes of a backend make headway: decided from what they have used, with time passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

SIGNS: Final = ("cpu", "memory", "output", "reads")
"""What headway can show in: computing, growing, writing to its log, reading."""


@attrs.frozen(kw_only=True)
class Usage:
    """What some processes have used, as of one look at them.

    Attributes:
        cpu_seconds: Time on processors, that of children they have waited for included.
        read_bytes: What they have read, by calls or from disks; what was both counts twice.
        memory_bytes: What they hold now.
    """

    cpu_seconds: float = 0.0
    read_bytes: int = 0
    memory_bytes: int = 0

    def beyond(self, earlier: Usage) -> Usage:
        """How much more it is than *earlier*; never less than nothing, although processes end in between."""
        return Usage(
            cpu_seconds=max(0.0, self.cpu_seconds - earlier.cpu_seconds),
            read_bytes=max(0, self.read_bytes - earlier.read_bytes),
            memory_bytes=max(0, self.memory_bytes - earlier.memory_bytes),
        )


WINDOW: Final = 10.0
"""Seconds within which an amount must be gained to be a sign."""

MINIMUM: Final[Mapping[str, float]] = {"cpu": 0.2, "memory": 2**20, "output": 1, "reads": 64 * 2**10}
"""What must be gained within `WINDOW` to be a sign of headway: seconds for ``"cpu"``, else bytes.

An idle process is not at rest. Measured in 10 s (Linux 6.18, Python 3.11, 2 cores):

- asleep, in `asyncio` or in Trio; and one stopped by SIGSTOP: nothing at all
- an idle server on grpcio, with its poller threads: 4 ms of processor time
- the same, asked for Health every 2 s: 15 ms, 100 bytes read, 20 KiB more memory
- a loop that sleeps 10 ms, or 20 threads that sleep 100 ms: 27 and 44 ms

So 0.2 s, 2 % of one core, is four times the worst of them, and far below what loading takes that deserves its name.
"""

_GAINED: Final[Mapping[str, Callable[[Usage], float]]] = {
    "cpu": lambda usage: usage.cpu_seconds,
    "memory": lambda usage: usage.memory_bytes,
    "reads": lambda usage: usage.read_bytes,
}


@attrs.define(eq=False)
class _Base:
    """What a sign is counted from."""

    at: float
    amount: float


class Progress:
    """Watches for signs of headway.

    What is gained too slowly to show between two looks adds up, for as long as `WINDOW` lasts; so it does not matter
    how often it is looked.

    Args:
        now: The current instant.
        usage: What the processes have used by now; None if it could not be looked at.
        output_bytes: What they have written so far.
    """

    def __init__(self, now: float, usage: Usage | None, output_bytes: int) -> None:
        self._bases: dict[str, _Base] = {}
        self.look(now, usage, output_bytes)

    def look(self, now: float, usage: Usage | None, output_bytes: int) -> frozenset[str]:
        """The signs (see `SIGNS`) that there were since the look before.

        If *usage* is None, what it would show counts as shown: nobody is to be ended because we cannot look. Whoever
        uses this has a bound anyway.
        """
        amounts: dict[str, float | None] = {"output": output_bytes}
        amounts.update({sign: None if usage is None else amount(usage) for sign, amount in _GAINED.items()})
        return frozenset(sign for sign, amount in amounts.items() if self._shows(sign, now, amount))

    def _shows(self, sign: str, now: float, amount: float | None) -> bool:
        base = self._bases.get(sign)
        if amount is None or base is None:
            self._rebase(sign, now, amount)
            return amount is None
        elapsed = now - base.at
        # A look that comes late has seen as much more idling.
        shows = amount - base.amount >= MINIMUM[sign] * max(1.0, elapsed / WINDOW)
        # When processes end, the sums fall: what the others do counts from there.
        if shows or elapsed >= WINDOW or amount < base.amount:
            self._rebase(sign, now, amount)
        return shows

    def _rebase(self, sign: str, now: float, amount: float | None) -> None:
        if amount is None:
            self._bases.pop(sign, None)
        else:
            self._bases[sign] = _Base(now, amount)
