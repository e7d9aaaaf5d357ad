from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from trio_sup import InvalidValue, ProcessKey
from trio_sup.defaults import _ports
from trio_sup.defaults._ports import AffinityPorts, EphemeralPorts, FixedPorts, LifoPorts
from trio_sup.engine._port_hold import hold_port
from trio_sup.strategies import PortsExhausted

A, B, C, D = (ProcessKey(name) for name in "abcd")


def anything(port: int) -> int | None:
    return port


def all_but(*taken: int) -> Callable[[int], int | None]:
    return lambda port: None if port in taken else port


# ---- affinity: rules by example


def test_a_released_port_is_in_quarantine_and_then_its_own_key_gets_it() -> None:
    ports = AffinityPorts(range="100-109")
    assert ports.allocate(A, 0.0, anything) == 100
    ports.release(A, 100, 1.0)
    assert ports.allocate(B, 1.0, anything) == 101
    assert ports.allocate(C, 15.999, anything) == 102
    assert ports.allocate(A, 16.0, anything) == 100


def test_nobody_else_gets_a_claimed_port_while_there_are_unused_ones() -> None:
    ports = AffinityPorts(range="100-101")
    ports.release(A, ports.allocate(A, 0.0, anything), 0.0)
    assert ports.allocate(B, 20.0, anything) == 101
    assert ports.stolen is None


def test_a_released_port_without_owner_is_used_before_the_range_grows() -> None:
    ports = AffinityPorts(range="100-109")
    ports.release(A, ports.allocate(A, 0.0, anything), 0.0)
    assert ports.allocate(A, 1.0, anything) == 101  # its claim moves here
    assert ports.allocate(B, 15.0, anything) == 100


def test_a_claimed_port_is_stolen_when_nothing_else_is_left_and_the_engine_is_told() -> None:
    ports = AffinityPorts(range="100-101")
    for key in (A, B):
        ports.allocate(key, 0.0, anything)
    ports.release(A, 100, 1.0)
    ports.release(B, 101, 2.0)
    assert ports.allocate(C, 20.0, anything) == 101  # the newest
    assert ports.stolen == (101, B)
    assert ports.allocate(A, 20.0, anything) == 100
    assert ports.stolen is None


def test_a_claim_ends_after_the_affinity_time() -> None:
    ports = AffinityPorts(range="100-109")
    ports.release(A, ports.allocate(A, 0.0, anything), 0.0)
    assert ports.allocate(B, 299.999, anything) == 101
    assert ports.allocate(C, 300.0, anything) == 100


def test_ten_restarts_of_one_key_do_not_exhaust_three_ports() -> None:
    ports = AffinityPorts(range="100-102")
    for restart in range(10):
        port = ports.allocate(A, restart * 8.0, anything)
        ports.release(A, port, restart * 8.0 + 1)


def test_exhaustion_says_how_it_came_about_and_what_to_change() -> None:
    ports = AffinityPorts(range="100-104", quarantine="15s")
    for key in (A, B, C):
        ports.allocate(key, 0.0, anything)
    ports.release(A, 100, 1.0)
    with pytest.raises(PortsExhausted) as caught:
        ports.allocate(D, 2.0, all_but(103, 104))
    assert str(caught.value) == (
        "no free port in 100-104: 2 in use, 1 in quarantine, 2 taken by others. "
        "Widen `range`, or shorten `quarantine` (15 s)."
    )


def test_a_port_that_a_stranger_had_is_offered_again() -> None:
    ports = AffinityPorts(range="100-103")
    assert ports.allocate(A, 0.0, all_but(100, 101)) == 102
    assert ports.allocate(B, 0.0, all_but(100)) == 101
    assert ports.allocate(C, 0.0, anything) == 100
    ports.release(C, 100, 0.0)
    assert ports.allocate(C, 20.0, all_but(100)) == 103
    assert ports.allocate(D, 20.0, anything) == 100


def test_a_successor_s_port_is_not_freed_by_its_former_owner() -> None:
    ports = AffinityPorts(range="100-100", quarantine=0, affinity=0)
    ports.release(A, ports.allocate(A, 0.0, anything), 0.0)
    ports.allocate(B, 0.0, anything)
    ports.release(A, 100, 1.0)
    with pytest.raises(PortsExhausted):
        ports.allocate(C, 2.0, anything)


def test_unset_times_are_the_defaults() -> None:
    for ports in (AffinityPorts(), EphemeralPorts()):
        assert (ports.quarantine, ports.affinity) == (15.0, 300.0)
    assert AffinityPorts().range == LifoPorts().range == (21000, 21999)


# ---- lifo


def test_lifo_gives_the_port_that_was_freed_last_and_then_grows() -> None:
    ports = LifoPorts(range=(100, 109))
    for key in (A, B, C):
        ports.allocate(key, 0.0, anything)
    ports.release(A, 100, 0.0)
    ports.release(B, 101, 0.0)
    assert [ports.allocate(D, 0.0, anything) for _ in range(3)] == [101, 100, 103]


# ---- ephemeral and fixed, with real sockets where the kernel decides


def test_ephemeral_ports_come_from_the_kernel_and_return_to_their_key() -> None:
    ports = EphemeralPorts()
    with ExitStack() as stack:

        def hold(port: int) -> int | None:
            placeholder = hold_port(port)
            if placeholder is None:
                return None
            held = stack.enter_context(placeholder).getsockname()[1]
            return int(held)

        first, second = ports.allocate(A, 0.0, hold), ports.allocate(B, 0.0, hold)
        assert first != second
        stack.close()
        ports.release(A, first, 0.0)
        assert ports.allocate(A, 1.0, hold) == first
        stack.close()
        ports.release(A, first, 2.0)
        with socket.create_server(("127.0.0.1", first)):
            assert ports.allocate(A, 3.0, hold) != first


def test_ephemeral_gives_up_when_the_kernel_offers_only_what_others_may_be_believed_to_have() -> None:
    ports = EphemeralPorts()
    ports.release(A, ports.allocate(A, 0.0, lambda _: 40000), 0.0)
    asked: list[int] = []

    def hold(port: int) -> int | None:
        asked.append(port)
        return 40000

    with pytest.raises(PortsExhausted, match=r"0 in use, 64 that it offered"):
        ports.allocate(B, 1.0, hold)
    assert asked == [0] * 64


def test_fixed_ports_are_those_configured() -> None:
    ports = FixedPorts(ports={"a": 5000, "a#2": 6000, "c#d#1": 7000, "e#": 8000})
    assert ports.allocate(ProcessKey("a"), 0.0, anything) == 5000
    assert ports.allocate(ProcessKey("a", 1), 0.0, anything) == 5001
    assert ports.allocate(ProcessKey("a", 2), 0.0, anything) == 6000
    assert ports.allocate(ProcessKey("c#d", 1), 0.0, anything) == 7000
    assert ports.allocate(ProcessKey("e#", 3), 0.0, anything) == 8003
    ports.release(ProcessKey("a"), 5000, 0.0)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (ProcessKey("a", 1), "port 65535, which `ports` fixes for a#1, is taken"),
        (ProcessKey("a", 2), "a#2 would get port 65536"),
        (ProcessKey("c#d", 0), "no port is configured for c#d#0"),
    ],
)
def test_a_fixed_port_that_cannot_be_had_is_named_and_no_other_is_tried(key: ProcessKey, why: str) -> None:
    ports = FixedPorts(ports={"a": 65534, "c#d#1": 7000})
    asked: list[int] = []

    def hold(port: int) -> int | None:
        asked.append(port)
        return None

    with pytest.raises(PortsExhausted, match=why):
        ports.allocate(key, 0.0, hold)
    assert set(asked) <= {65535}


# ---- options


@pytest.mark.parametrize("value", ["21000-21009", " 21000 - 21009 ", (21000, 21009), [21000, 21009]])
def test_a_range_is_text_or_a_pair(value: object) -> None:
    assert AffinityPorts(range=value).range == (21000, 21009)
    assert LifoPorts(range=value).range == (21000, 21009)


def test_durations_are_written_as_people_write_them() -> None:
    ports = AffinityPorts(quarantine="500ms", affinity="1m30s")
    assert (ports.quarantine, ports.affinity) == (0.5, 90.0)


@pytest.mark.parametrize(
    ("strategy", "options", "complaint"),
    [
        (AffinityPorts, {"range": "5-4"}, "range: the range is reversed: 5 is above 4"),
        (AffinityPorts, {"range": "0-4"}, "range: a port is a whole number from 1 to 65535"),
        (LifoPorts, {"range": "1-65536"}, "range: a port is a whole number from 1 to 65535"),
        (LifoPorts, {"range": (True, 5)}, "range: a port is a whole number"),
        (LifoPorts, {"range": ""}, "range: expected the first and the last port"),
        (LifoPorts, {"range": []}, "range: expected the first and the last port"),
        (LifoPorts, {"range": "1-2-3"}, "range: expected the first and the last port"),
        (LifoPorts, {"range": 5000}, "range: expected the first and the last port"),
        (AffinityPorts, {"quarantine": -1}, "quarantine: a duration must not be negative"),
        (AffinityPorts, {"affinity": "soon"}, "affinity: expected a duration"),
        (EphemeralPorts, {"quarantine": "soon"}, "quarantine: expected a duration"),
        (EphemeralPorts, {"affinity": None}, "affinity: expected a duration"),
        (FixedPorts, {"ports": {}}, "ports: expected a table"),
        (FixedPorts, {"ports": 5000}, "ports: expected a table"),
        (FixedPorts, {"ports": {"a": 0}}, "ports: a: a port is a whole number from 1 to 65535"),
        (FixedPorts, {"ports": {"a": "5000"}}, "ports: a: a port is a whole number"),
        (FixedPorts, {"ports": {"": 5000}}, "ports: a model name must be non-empty"),
        (FixedPorts, {"ports": {5: 5000}}, "ports: expected a model"),
        (FixedPorts, {"ports": {"a": 5000, "b": 5000}}, "ports: 'a' and 'b' have the same port 5000"),
        (FixedPorts, {"ports": {"a": 5000, "a#0": 5001}}, "ports: 'a' and 'a#0' both name a#0"),
        (FixedPorts, {"ports": {"a#1": 5000, "a#01": 5001}}, "ports: 'a#1' and 'a#01' both name a#1"),
    ],
)
def test_a_bad_option_is_named(strategy: Callable[..., object], options: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        strategy(**options)
    assert str(caught.value).startswith(complaint)


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError):
        AffinityPorts("21000-21009")  # type: ignore[call-arg]  # that is the point


def test_the_strategies_are_offered_by_name() -> None:
    assert _ports.trio_sup_port_strategies() == {
        "affinity": AffinityPorts,
        "lifo": LifoPorts,
        "ephemeral": EphemeralPorts,
        "fixed": FixedPorts,
    }
    options: Mapping[str, Any] = vars(_ports.trio_sup_port_strategies)["trio_sup_impl"]
    assert options["trylast"] is True
