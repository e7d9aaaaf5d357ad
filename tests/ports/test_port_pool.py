"""The port strategies against a small independent model of the rules that looks everything up by brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from trio_sup import ProcessKey
from trio_sup.defaults._ports import AffinityPorts, EphemeralPorts, LifoPorts
from trio_sup.strategies import PortsExhausted

LOW, HIGH = 100, 104
QUARANTINE, AFFINITY = 15, 40
KEYS = st.builds(ProcessKey, st.sampled_from(["a", "b", "c#d"]), st.integers(0, 2))
STRANGERS = st.frozensets(st.integers(LOW, HIGH), max_size=3)
STEPS = st.sampled_from([0, 1, QUARANTINE - 1, QUARANTINE, AFFINITY - 1, AFFINITY])


@attrs.frozen
class Release:
    key: ProcessKey
    port: int
    at: float


@attrs.define
class Model:
    """Everything that ever happened; every question is answered from it."""

    quarantine: float
    affinity: float
    in_use: dict[int, ProcessKey] = attrs.field(factory=dict)
    # Who took or released which port, and until when that is a claim.
    claims: list[tuple[ProcessKey, int, float]] = attrs.field(factory=list)
    releases: list[Release] = attrs.field(factory=list)
    ever_used: set[int] = attrs.field(factory=set)

    def take(self, key: ProcessKey, port: int) -> None:
        self.in_use[port] = key
        self.ever_used.add(port)
        self.claims.append((key, port, float("inf")))

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        if self.in_use.get(port) == key:
            del self.in_use[port]
            self.releases.append(Release(key, port, now))
            self.claims.append((key, port, now + self.affinity))

    def owner(self, port: int, now: float) -> ProcessKey | None:
        """The last claim to the port, unless it is over or its key has claimed another port since."""
        for at, (key, claimed, until) in reversed(list(enumerate(self.claims))):
            if claimed == port:
                moved = any(later == key for later, _, _ in self.claims[at + 1 :])
                return None if moved or until <= now else key
        return None

    def quarantined(self, port: int, now: float) -> bool:
        times = [release.at for release in self.releases if release.port == port]
        return bool(times) and now < times[-1] + self.quarantine

    def preferred(self, key: ProcessKey, now: float) -> Sequence[int]:
        newest_first = list(dict.fromkeys(release.port for release in reversed(self.releases)))
        free = [port for port in newest_first if port not in self.in_use and not self.quarantined(port, now)]
        mine = [port for port in free if self.owner(port, now) == key]
        unclaimed = [port for port in free if self.owner(port, now) is None]
        claimed = [port for port in free if self.owner(port, now) not in (None, key)]
        fresh = [port for port in range(LOW, HIGH + 1) if port not in self.ever_used]
        return mine + unclaimed + fresh + claimed


def holding(free: Callable[[int], bool], asked: list[int]) -> Callable[[int], int | None]:
    def hold(port: int) -> int | None:
        asked.append(port)
        return port if free(port) else None

    return hold


class RangeMachine(RuleBasedStateMachine):
    held = Bundle("held")
    strategy: AffinityPorts | LifoPorts
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=held, key=KEYS, strangers=STRANGERS)
    def allocate(self, key: ProcessKey, strangers: frozenset[int]) -> object:
        preferred = self.model.preferred(key, self.now)
        expected = next((port for port in preferred if port not in strangers), None)
        asked: list[int] = []
        hold = holding(lambda port: port not in strangers and port not in self.model.in_use, asked)
        if expected is None:
            with pytest.raises(PortsExhausted) as caught:
                self.strategy.allocate(key, self.now, hold)
            quarantined = sum(
                self.model.quarantined(port, self.now) for port in range(LOW, HIGH + 1) if port not in self.model.in_use
            )
            for part in (
                f"{LOW}-{HIGH}",
                f"{len(self.model.in_use)} in use",
                f"{quarantined} in quarantine",
                f"{len(preferred)} taken by others",
            ):
                assert part in str(caught.value)
            result: object = multiple()
        else:
            assert self.strategy.allocate(key, self.now, hold) == expected
            owner = self.model.owner(expected, self.now)
            stolen = (expected, owner) if owner not in (None, key) else None
            assert getattr(self.strategy, "stolen", None) == stolen
            self.model.take(key, expected)
            result = (key, expected)
        # Nobody else's port is asked for, and nothing is held that is not used.
        tried = preferred if expected is None else preferred[: preferred.index(expected) + 1]
        assert asked == list(tried)
        return result

    @rule(pair=consumes(held))
    def release(self, pair: tuple[ProcessKey, int]) -> None:
        self.strategy.release(*pair, self.now)
        self.model.release(*pair, self.now)

    @rule(key=KEYS, port=st.integers(LOW - 1, HIGH + 1))
    def release_what_may_be_another_s(self, key: ProcessKey, port: int) -> None:
        if self.model.in_use.get(port) != key:
            self.strategy.release(key, port, self.now)

    @invariant()
    def memory_is_bounded_by_the_range(self) -> None:
        pool = self.strategy._pool
        size = HIGH - LOW + 1
        assert len(pool.claims._owners) == len(pool.claims._ports) <= size
        assert len(pool.used) + len(pool._free) + len(pool._quarantined) + len(pool._passed_over) <= size


class AffinityMachine(RangeMachine):
    def __init__(self) -> None:
        super().__init__()
        self.strategy = AffinityPorts(range=(LOW, HIGH), quarantine=QUARANTINE, affinity=AFFINITY)
        self.model = Model(QUARANTINE, AFFINITY)


class LifoMachine(RangeMachine):
    def __init__(self) -> None:
        super().__init__()
        self.strategy = LifoPorts(range=(LOW, HIGH))
        self.model = Model(0, 0)


class EphemeralMachine(RuleBasedStateMachine):
    """The kernel offers what it likes; what is believed to be another key's is never accepted."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.strategy = EphemeralPorts(quarantine=QUARANTINE, affinity=AFFINITY)
        self.model = Model(QUARANTINE, AFFINITY)

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=held, key=KEYS, strangers=STRANGERS, offers=st.permutations(range(LOW, HIGH + 1)))
    def allocate(self, key: ProcessKey, strangers: frozenset[int], offers: list[int]) -> object:
        held: set[int] = set()

        def free(port: int) -> bool:
            return port not in strangers and port not in self.model.in_use and port not in held

        def hold(port: int) -> int | None:
            port = port or next(filter(free, offers), 0)
            if not port or not free(port):
                return None
            held.add(port)
            return port

        def acceptable(port: int) -> bool:
            owner = self.model.owner(port, self.now)
            return owner == key or (owner is None and not self.model.quarantined(port, self.now))

        own = [port for port in offers if self.model.owner(port, self.now) == key and free(port)]
        expected = (own + [port for port in offers if free(port) and acceptable(port)] + [0])[0]
        if not expected:
            with pytest.raises(PortsExhausted):
                self.strategy.allocate(key, self.now, hold)
            return multiple()
        assert self.strategy.allocate(key, self.now, hold) == expected
        assert not own or held == {expected}
        self.model.take(key, expected)
        return key, expected

    @rule(pair=consumes(held))
    def release(self, pair: tuple[ProcessKey, int]) -> None:
        self.strategy.release(*pair, self.now)
        self.model.release(*pair, self.now)

    @invariant()
    def memory_is_bounded(self) -> None:
        released = self.strategy._released
        assert len(released.used) + len(released._quarantined) <= HIGH - LOW + 1
        assert len(released.claims) <= HIGH - LOW + 1


TestAffinityPortsFollowTheRules = AffinityMachine.TestCase
TestLifoPortsFollowTheRules = LifoMachine.TestCase
TestEphemeralPortsFollowTheRules = EphemeralMachine.TestCase
for case in (AffinityMachine, LifoMachine, EphemeralMachine):
    case.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
