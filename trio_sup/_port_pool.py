"""Which port next: the bookkeeping of port strategies, without sockets and with time passed in.

A port that was released is in *quarantine* first, then free. The key that had it keeps a *claim* on it for a while:
an address that still names the port then leads to that key's process or to none.

Source: the LocalAI worker's port rules.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

import attrs

from ._values import ProcessKey


@attrs.define(eq=False)
class Claims:
    """Who may count on which port: one key per port, and one port per key."""

    _ports: dict[ProcessKey, int] = attrs.field(factory=dict, init=False)
    # The same pairs the other way round, with the instant they end; inf while the port is in use.
    _owners: dict[int, tuple[ProcessKey, float]] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._owners)

    def claim(self, key: ProcessKey, port: int, until: float = math.inf) -> None:
        """Give *port* to *key*, which loses the one it had, as the former owner of *port* loses this one."""
        if port in self._owners:
            del self._ports[self._owners[port][0]]
        if key in self._ports:
            del self._owners[self._ports[key]]
        self._ports[key] = port
        self._owners[port] = (key, until)

    def expire(self, now: float) -> None:
        """Drop what has ended by *now*."""
        for port, (key, until) in list(self._owners.items()):
            if until <= now:
                del self._owners[port], self._ports[key]

    def port_of(self, key: ProcessKey) -> int | None:
        return self._ports.get(key)

    def owner_of(self, port: int) -> ProcessKey | None:
        return self._owners[port][0] if port in self._owners else None


@attrs.define(eq=False)
class PortPool:
    """The ports from *low* to *high*, both included.

    Args:
        quarantine: Seconds for which a released port is given to nobody.
        affinity: Seconds after its release for which a port is kept for the key that had it.
    """

    low: int
    high: int
    quarantine: float
    affinity: float
    claims: Claims = attrs.field(factory=Claims, init=False)
    used: dict[int, ProcessKey] = attrs.field(factory=dict, init=False)
    # Released earlier first; a port is in exactly one of used, quarantined, free, passed over, or never used.
    _quarantined: dict[int, float] = attrs.field(factory=dict, init=False)
    _free: dict[int, None] = attrs.field(factory=dict, init=False)
    _next: int = attrs.field(init=False)
    # Below _next and yet never used: a stranger had them when their turn came. Ascending.
    _passed_over: list[int] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._next = self.low

    @property
    def quarantined(self) -> int:
        """How many ports are in quarantine, as of the last look for candidates."""
        return len(self._quarantined)

    def candidates(self, key: ProcessKey, now: float) -> Iterator[int]:
        """The ports that *key* may have now, best first. `take` one before asking for others.

        Its own claimed port; free ones that nobody claims, newest first; never used ones, lowest first; then free ones
        that other keys claim, newest first.
        """
        self.claims.expire(now)
        for port in [port for port, until in self._quarantined.items() if until <= now]:
            del self._quarantined[port]
            self._free[port] = None
        own = self.claims.port_of(key)
        if own is not None and own in self._free:
            yield own
        newest_first = list(reversed(self._free))
        yield from (port for port in newest_first if self.claims.owner_of(port) is None)
        yield from self._passed_over
        yield from range(self._next, self.high + 1)
        yield from (port for port in newest_first if self.claims.owner_of(port) not in (None, key))

    def take(self, key: ProcessKey, port: int) -> ProcessKey | None:
        """Put *port*, one of the candidates, into use by *key*; tell which other key it was stolen from, if any."""
        if port >= self._next:
            self._passed_over.extend(range(self._next, port))
            self._next = port + 1
        elif port in self._free:
            del self._free[port]
        else:
            del self._passed_over[bisect.bisect_left(self._passed_over, port)]
        owner = self.claims.owner_of(port)
        self.used[port] = key
        self.claims.claim(key, port)
        return owner if owner != key else None

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """Take *port* back; nothing happens unless *key* has it, so that nobody frees a successor's port."""
        if self.used.get(port) != key:
            return
        del self.used[port]
        self._quarantined[port] = now + self.quarantine
        self.claims.claim(key, port, now + self.affinity)


@attrs.define(eq=False)
class ReleasedPorts:
    """What to remember about ports that somebody else chooses: which are not to be believed yet.

    Args:
        quarantine: Seconds for which a released port is given to no other key.
        affinity: Seconds after its release for which a port is kept for the key that had it.
    """

    quarantine: float
    affinity: float
    claims: Claims = attrs.field(factory=Claims, init=False)
    used: dict[int, ProcessKey] = attrs.field(factory=dict, init=False)
    _quarantined: dict[int, float] = attrs.field(factory=dict, init=False)

    def sweep(self, now: float) -> None:
        """Forget what has ended by *now*."""
        self.claims.expire(now)
        self._quarantined = {port: until for port, until in self._quarantined.items() if until > now}

    def may_have(self, key: ProcessKey, port: int) -> bool:
        """Whether no address naming *port* may still be believed to be another key's, as of the last sweep."""
        owner = self.claims.owner_of(port)
        return owner == key or (owner is None and port not in self._quarantined)

    def take(self, key: ProcessKey, port: int) -> None:
        self._quarantined.pop(port, None)
        self.used[port] = key
        self.claims.claim(key, port)

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """Take *port* back; nothing happens unless *key* has it."""
        if self.used.get(port) != key:
            return
        del self.used[port]
        self._quarantined[port] = now + self.quarantine
        self.claims.claim(key, port, now + self.affinity)
