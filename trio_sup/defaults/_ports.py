"""The built-in port strategies: which port a backend gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from .._port_pool import PortPool, ReleasedPorts
from .._values import ProcessKey
from ..errors import InvalidValue
from ..hookspecs import hookimpl
from ..strategies import PortsExhausted, PortStrategy, complaints_name_fields, seconds

Hold = Callable[[int], int | None]

DEFAULT_RANGE = (21000, 21999)
"""Outside the range from which Linux gives ports to clients (32768-60999)."""
_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*", re.ASCII)
_KERNEL_TRIES = 64


def _to_port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise InvalidValue(value, "a port is a whole number from 1 to 65535")
    return value


def _to_range(value: object) -> tuple[int, int]:
    ends: Sequence[object] = ()
    if isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        ends = [int(match[1]), int(match[2])]
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        ends = value
    if len(ends) != 2:
        raise InvalidValue(value, 'expected the first and the last port, such as "21000-21999"')
    low, high = _to_port(ends[0]), _to_port(ends[1])
    if low > high:
        raise InvalidValue(value, f"the range is reversed: {low} is above {high}")
    return low, high


def _to_fixed(value: object) -> dict[ProcessKey | str, int]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidValue(value, 'expected a table of models, or "model#replica", and their ports')
    ports: dict[ProcessKey | str, int] = {}
    named: dict[ProcessKey, str] = {}
    taken: dict[int, str] = {}
    for name, given in value.items():
        try:
            port = _to_port(given)
        except InvalidValue as error:
            raise InvalidValue(given, f"{name}: {error.why}") from None
        entry = _to_entry(name)
        first = entry if isinstance(entry, ProcessKey) else ProcessKey(entry)
        if first in named:
            raise InvalidValue(value, f"{named[first]!r} and {name!r} both name {first}")
        if port in taken:
            raise InvalidValue(value, f"{taken[port]!r} and {name!r} have the same port {port}")
        named[first], taken[port], ports[entry] = str(name), str(name), port
    return ports


def _to_entry(name: object) -> ProcessKey | str:
    """A process key, or the model if the text is not one: models may contain ``#``."""
    if isinstance(name, ProcessKey):
        return name
    if not isinstance(name, str):
        raise InvalidValue(name, 'expected a model, or "model#replica"')
    try:
        return ProcessKey.parse(name)
    except InvalidValue:
        return ProcessKey(name).model


@attrs.define(kw_only=True, eq=False, field_transformer=complaints_name_fields)
class AffinityPorts:
    """Gives each key a port of its own, as far as the range allows.

    A released port is given to nobody for *quarantine*, and kept for its last owner for *affinity*. A key gets its own
    port if that is free; else a free one that nobody claims, the newest first; else one that was never used; and only
    when nothing else is left the newest free one that another key claims.

    Args:
        range: First and last port, both included: ``"21000-21999"`` or a pair.
        quarantine: Seconds, or text such as ``"15s"``; 0 for none.
        affinity: Seconds, or text such as ``"5m"``; 0 for none.

    Attributes:
        stolen: After `allocate`, the port and whose it was, if it had to be taken from another key; else None.

    Raises:
        InvalidValue: A field makes no sense; the message names it.

    Source: 15 s, 5 min and the order are the LocalAI worker's.
    """

    range: tuple[int, int] = attrs.field(default=DEFAULT_RANGE, converter=_to_range)
    quarantine: float = attrs.field(default=15.0, converter=seconds)
    affinity: float = attrs.field(default=300.0, converter=seconds)
    stolen: tuple[int, ProcessKey] | None = attrs.field(default=None, init=False)
    _pool: PortPool = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._pool = PortPool(*self.range, self.quarantine, self.affinity)

    def allocate(self, key: ProcessKey, now: float, hold: Hold) -> int:
        """See `PortStrategy`."""
        self.stolen = None
        port, owner = _first_held(self._pool, key, now, hold)
        if owner is not None:
            self.stolen = port, owner
        return port

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """See `PortStrategy`; ignored unless *key* has *port*."""
        self._pool.release(key, port, now)


@attrs.define(kw_only=True, eq=False, field_transformer=complaints_name_fields)
class LifoPorts:
    """Gives the port that was released last; if none was, the next that was never used.

    A released port may be given to another key at once, so an address that somebody still remembers may lead to the
    wrong backend. For ranges that are too small for the default strategy.

    Args:
        range: First and last port, both included: ``"21000-21999"`` or a pair.

    Raises:
        InvalidValue: The range makes no sense.
    """

    range: tuple[int, int] = attrs.field(default=DEFAULT_RANGE, converter=_to_range)
    _pool: PortPool = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._pool = PortPool(*self.range, quarantine=0.0, affinity=0.0)

    def allocate(self, key: ProcessKey, now: float, hold: Hold) -> int:
        """See `PortStrategy`."""
        return _first_held(self._pool, key, now, hold)[0]

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """See `PortStrategy`; ignored unless *key* has *port*."""
        self._pool.release(key, port, now)


def _first_held(pool: PortPool, key: ProcessKey, now: float, hold: Hold) -> tuple[int, ProcessKey | None]:
    taken = 0
    for port in pool.candidates(key, now):
        if hold(port) == port:
            return port, pool.take(key, port)
        taken += 1
    raise PortsExhausted(
        f"no free port in {pool.low}-{pool.high}: {len(pool.used)} in use, {pool.quarantined} in quarantine, "
        f"{taken} taken by others. Widen `range`"
        + (f", or shorten `quarantine` ({pool.quarantine:g} s)." if pool.quarantined else ".")
    )


@attrs.define(kw_only=True, eq=False, field_transformer=complaints_name_fields)
class EphemeralPorts:
    """Lets the kernel choose; a key gets the port it had before, as long as that is kept for it.

    Args:
        quarantine: Seconds for which a released port is given to no other key, or text such as ``"15s"``.
        affinity: Seconds for which a released port is kept for its key, or text such as ``"5m"``.

    Raises:
        InvalidValue: A field makes no sense; the message names it.
    """

    quarantine: float = attrs.field(default=15.0, converter=seconds)
    affinity: float = attrs.field(default=300.0, converter=seconds)
    _released: ReleasedPorts = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._released = ReleasedPorts(self.quarantine, self.affinity)

    def allocate(self, key: ProcessKey, now: float, hold: Hold) -> int:
        """See `PortStrategy`."""
        released = self._released
        released.sweep(now)
        own = released.claims.port_of(key)
        if own is not None and hold(own) == own:
            released.take(key, own)
            return own
        refused = 0
        # What was refused stays held until the end, so the kernel cannot choose it again.
        while refused < _KERNEL_TRIES and (port := hold(0)) is not None:
            if released.may_have(key, port):
                released.take(key, port)
                return port
            refused += 1
        raise PortsExhausted(
            f"the kernel has no free port in its range: {len(released.used)} in use, {refused} that it offered are in "
            "quarantine or kept for other keys. Widen the range (net.ipv4.ip_local_port_range), shorten `quarantine` "
            f"({self.quarantine:g} s) or `affinity` ({self.affinity:g} s), or choose another port strategy."
        )

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """See `PortStrategy`; ignored unless *key* has *port*."""
        self._released.release(key, port, now)


@attrs.define(kw_only=True, eq=False, field_transformer=complaints_name_fields)
class FixedPorts:
    """Gives each key the port that was configured for it, and never another one.

    Args:
        ports: Ports by ``"model#replica"``, or by ``"model"``: its replica *n* then gets the port *n* above the given
            one, unless that replica has an entry of its own.

    Raises:
        InvalidValue: A port makes no sense, or two entries have the same port or name the same replica.
    """

    ports: Mapping[Any, int] = attrs.field(converter=_to_fixed)

    def allocate(self, key: ProcessKey, now: float, hold: Hold) -> int:
        """See `PortStrategy`."""
        port = self.ports.get(key)
        if port is None:
            if key.model not in self.ports:
                raise PortsExhausted(f"no port is configured for {key}: add it, or {key.model!r}, to `ports`.")
            port = self.ports[key.model] + key.replica
            if port > 65535:
                raise PortsExhausted(
                    f"{key} would get port {port}, above 65535: give {key.model!r} a lower one in `ports`."
                )
        if hold(port) != port:
            raise PortsExhausted(
                f"port {port}, which `ports` fixes for {key}, is taken by others: free it, or configure another one."
            )
        return port

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """See `PortStrategy`; there is nothing to remember."""


@hookimpl(trylast=True)
def trio_sup_port_strategies() -> Mapping[str, Callable[..., PortStrategy]]:
    """The strategies of this module, by name."""
    return {"affinity": AffinityPorts, "lifo": LifoPorts, "ephemeral": EphemeralPorts, "fixed": FixedPorts}
