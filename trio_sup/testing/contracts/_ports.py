"""The contract of port strategies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ..._values import BackendSpec, ProcessKey
from ...engine import open_supervisor
from ...strategies import PortsExhausted, PortStrategy
from .._fakes import FakeSystem
from .._fast import run_fast
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, if_promised

_KEYS = 5


@attrs.define
class Kernel:
    """Holds ports as the system would: not those of strangers, and none twice."""

    strangers: set[int] = attrs.field(factory=set)
    held: dict[int, ProcessKey | None] = attrs.field(factory=dict)
    asked: int = 0
    refuses_all: bool = False
    gave: list[int] = attrs.field(factory=list)
    _next: int = 40000

    def hold(self, port: int) -> int | None:
        """See `PortStrategy.allocate`."""
        self.asked += 1
        if self.refuses_all:
            return None
        if port == 0:
            self._next = next(p for p in range(self._next + 1, 65536) if p not in self.strangers and p not in self.held)
            port = self._next
        if port in self.strangers or port in self.held:
            return None
        self.held[port] = None
        self.gave.append(port)
        return port

    def allocate(self, ports: PortStrategy, key: ProcessKey, now: float) -> int:
        """Ask as the engine does, and let go of what was held but not returned."""
        self.gave.clear()
        port = None
        try:
            port = ports.allocate(key, now, self.hold)
        finally:
            self.held = {number: owner for number, owner in self.held.items() if owner is not None or number == port}
        assert isinstance(port, int), f"allocate returned {port!r}, which is no port"
        assert port in self.gave, f"port {port} was returned, but hold never gave it in this call"
        self.held[port] = key
        return port

    def try_allocate(self, ports: PortStrategy, key: ProcessKey, now: float) -> int | None:
        """Likewise, with None if there is no port."""
        try:
            return self.allocate(ports, key, now)
        except PortsExhausted:
            return None

    def release(self, ports: PortStrategy, port: int, now: float) -> None:
        """Let go of *port*, and tell the strategy, as the engine does."""
        key = self.held.pop(port)
        assert key is not None
        ports.release(key, port, now)


class PortStrategyContract(StrategyContract):
    """Every port strategy must pass these.

    Attributes:
        keys: Five keys that it has ports for.
        returns_after: Seconds after a release when the same key surely gets the same port; None if it never does.
        quarantine: Seconds for which a released port is surely given to no other key; None if that is not promised.
    """

    kind = "port strategy"
    keys: ClassVar[Sequence[ProcessKey]] = tuple(ProcessKey(f"model-{number}") for number in range(_KEYS))
    returns_after: ClassVar[float | None] = 0.0
    quarantine: ClassVar[float | None] = None

    def make(self) -> PortStrategy:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @pytest.mark.parametrize("now", [0.0, 1e9])
    @pytest.mark.parametrize("number", range(_KEYS))
    def test_it_returns_a_port_that_hold_gave(self, number: int, now: float) -> None:
        port = Kernel().allocate(self.make(), self.keys[number], now)
        assert 1 <= port <= 65535

    @pytest.mark.parametrize("order", ["forwards", "backwards"])
    def test_keys_never_share_a_port(self, order: str) -> None:
        ports, kernel = self.make(), Kernel()
        keys = self.keys if order == "forwards" else self.keys[::-1]
        given_out = [kernel.allocate(ports, key, 0.0) for key in keys]
        assert len(set(given_out)) == len(given_out)

    @if_promised("returns_after")
    @pytest.mark.parametrize("number", range(_KEYS))
    def test_a_released_port_comes_back_to_its_key(self, number: int) -> None:
        assert self.returns_after is not None
        ports, kernel = self.make(), Kernel()
        given_out = [kernel.allocate(ports, key, 0.0) for key in self.keys]
        kernel.release(ports, given_out[number], 1.0)
        assert kernel.allocate(ports, self.keys[number], 1.0 + self.returns_after) == given_out[number]

    @if_promised("quarantine")
    @pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
    def test_a_released_port_is_in_quarantine(self, fraction: float) -> None:
        assert self.quarantine is not None
        ports, kernel = self.make(), Kernel()
        first = kernel.allocate(ports, self.keys[0], 0.0)
        kernel.release(ports, first, 1.0)
        for key in self.keys[1:]:
            assert kernel.try_allocate(ports, key, 1.0 + self.quarantine * fraction) != first

    @pytest.mark.parametrize("strangers", [1, 2, 3])
    def test_the_ports_of_strangers_are_passed_over(self, strangers: int) -> None:
        kernel = Kernel()
        for _ in range(strangers):
            if port := kernel.try_allocate(self.make(), self.keys[0], 0.0):
                kernel.strangers.add(port)
            kernel.held.clear()
        assert kernel.try_allocate(self.make(), self.keys[0], 0.0) not in kernel.strangers

    def test_a_port_that_a_stranger_let_go_of_can_be_had(self) -> None:
        ports, kernel = self.make(), Kernel(refuses_all=True)
        for _ in range(3):
            with pytest.raises(PortsExhausted):
                kernel.allocate(ports, self.keys[0], 0.0)
        kernel.refuses_all = False
        kernel.allocate(ports, self.keys[0], 1e6)

    @pytest.mark.parametrize("number", range(_KEYS))
    def test_exhaustion_is_said_with_a_reason(self, number: int) -> None:
        kernel = Kernel(refuses_all=True)
        with pytest.raises(PortsExhausted) as caught:
            kernel.allocate(self.make(), self.keys[number], 0.0)
        assert len(str(caught.value)) >= 10, "the text says why there is none and what to change"
        assert kernel.asked <= 65536, "it asks again for what was refused"

    @pytest.mark.parametrize("port", [1, 21000, 65535])
    def test_releasing_what_nobody_has_is_harmless(self, port: int) -> None:
        ports = self.make()
        ports.release(self.keys[0], port, 0.0)
        ports.release(ProcessKey("never heard of"), port, 0.0)
        Kernel().allocate(ports, self.keys[0], 1.0)

    def test_releasing_twice_is_harmless(self) -> None:
        ports, kernel = self.make(), Kernel()
        port = kernel.allocate(ports, self.keys[0], 0.0)
        kernel.release(ports, port, 1.0)
        ports.release(self.keys[0], port, 2.0)
        given_out = [kernel.allocate(ports, key, 1e6) for key in self.keys]
        assert len(set(given_out)) == len(given_out)

    @pytest.mark.parametrize("number", range(1, _KEYS))
    def test_a_key_cannot_free_the_port_of_another(self, number: int) -> None:
        ports = self.make()
        port = Kernel().allocate(ports, self.keys[0], 0.0)
        ports.release(self.keys[number], port, 1.0)
        # Its placeholder may be dropped while the backend runs, so the system alone would give the port away.
        assert Kernel().allocate(ports, self.keys[number], 1e6) != port

    @pytest.mark.parametrize("case", ["free", "exhausted"])
    def test_it_is_quick(self, case: str) -> None:
        took = []
        for _ in range(5):
            ports, kernel = self.make(), Kernel(refuses_all=case == "exhausted")
            began = time.perf_counter()
            try:
                kernel.release(ports, kernel.allocate(ports, self.keys[0], 0.0), 0.0)
            except PortsExhausted:
                assert case == "exhausted"
            took.append(time.perf_counter() - began)
        assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s: it must not block"

    def test_a_thousand_restarts_do_not_use_up_the_ports(self) -> None:
        ports, kernel = self.make(), Kernel()
        for restart in range(1000):
            kernel.release(ports, kernel.allocate(ports, self.keys[0], restart * 60.0), restart * 60.0 + 1)

    def test_whatever_happens_no_held_port_is_handed_out(self) -> None:
        """Thousands of random steps: starts, stops, strangers that come and go, time that passes."""
        steps = st.lists(
            st.tuples(
                st.sampled_from(["allocate", "allocate", "release", "stray release", "stranger", "wait"]),
                st.integers(0, _KEYS - 1),
                st.sampled_from([0.0, 0.1, 1.0, 14.9, 15.0, 60.0, 301.0]),
            ),
            max_size=60,
        )

        @settings(max_examples=150, deadline=None, database=None)
        @given(steps)
        def play(steps: list[tuple[str, int, float]]) -> None:
            ports, kernel, now = self.make(), Kernel(), 0.0
            last = 21000
            for what, number, seconds in steps:
                key = self.keys[number]
                mine = [port for port, owner in kernel.held.items() if owner == key]
                if what == "allocate" and not mine:
                    others = set(kernel.held) | kernel.strangers
                    port = kernel.try_allocate(ports, key, now)
                    assert port not in others
                    last = port or last
                elif what == "release" and mine:
                    kernel.release(ports, mine[0], now)
                elif what == "stray release" and last not in mine:
                    ports.release(key, last, now)
                elif what == "stranger" and last not in kernel.held:
                    kernel.strangers ^= {last}
                now += seconds

        play()

    def test_a_supervisor_gives_each_backend_its_own_port_and_gets_all_back(self) -> None:
        async def play() -> None:
            system = FakeSystem()
            async with open_supervisor(system=system, ports=self.make(), install_lock="memory") as sup:
                for _ in range(3):
                    spec = BackendSpec(name="contract", command=["sh"], stop_policy="kill")
                    for key in self.keys:
                        await sup.start(spec, model=key.model, replica=key.replica)
                    addresses = {sup.get_address(str(key)) for key in self.keys}
                    assert len(addresses) == len(self.keys)
                    await sup.stop_all()
                    assert not system.held
                    await trio.sleep(3600)

        run_fast(play)
