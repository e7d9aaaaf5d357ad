"""Values refuse nonsense at once, and say which field and why."""

from __future__ import annotations

import contextlib
import math
import signal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_sup
from trio_sup import BackendSpec, Choice, LogSettings, Readiness
from trio_sup._units import bytes_in_words, in_words, seconds, seconds_above_zero

SPEC = BackendSpec(name="x", command=["x"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "a/b"), ("name", "../x"), ("name", "-x"), ("name", 3), ("command", []),
        ("command", "x"), ("command", [""]), ("command", ["x", 1]), ("command", ["a\0b"]), ("aliases", "x"),
        ("aliases", ["a b"]), ("env", {"A=B": "1"}), ("env", {"A": 1}), ("env", {"": "x"}), ("env", ["A=1"]),
        ("cwd", ""), ("cwd", 3), ("clear_env", 1), ("host", ""), ("host", "a b"), ("token", ""), ("token", "a\nb"),
        ("stop_signal", "SIGNOTHING"), ("stop_signal", 0), ("stop_signal", True), ("signal_to", "all"), ("grace", -1),
        ("grace", "soon"), ("grace", math.nan), ("grace", math.inf), ("grace", True), ("success_codes", [256]),
        ("success_codes", 0), ("identity", "maybe"), ("readiness", {}), ("stop_policy", {}), ("stop_policy", ""),
        ("logs", {}), ("logs", None),
        ("ports", {}), ("ports", ""),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(trio_sup.InvalidValue, match=f"^{field}: "):
        attrs.evolve(SPEC, **{field: value})


@pytest.mark.parametrize("field", ["timeout", "interval", "call_timeout"])
@pytest.mark.parametrize("value", [0, -1, "0s", "x", None])
def test_readiness_needs_durations_above_zero(field: str, value: Any) -> None:
    with pytest.raises(trio_sup.InvalidValue, match=f"^{field}: "):
        Readiness(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ring_bytes", 1023), ("ring_bytes", "1kB"), ("ring_bytes", -1), ("ring_bytes", "much"), ("ring_bytes", None),
        ("max_bytes", 0), ("max_bytes", True), ("files", -1), ("files", 1001), ("files", "5"), ("files", 1.0),
        ("files", True),
    ],
)  # fmt: skip
def test_a_bad_setting_of_logs_is_named(field: str, value: Any) -> None:
    with pytest.raises(trio_sup.InvalidValue, match=f"^{field}: "):
        LogSettings(**{field: value})


def test_sizes_of_logs_may_be_texts() -> None:
    settings = LogSettings(ring_bytes="1KiB", max_bytes="1.5GiB", files=0)
    assert (settings.ring_bytes, settings.max_bytes, settings.files) == (1024, 3 * 2**29, 0)


def test_friendly_forms_are_taken() -> None:
    spec = attrs.evolve(SPEC, grace="1m30s", stop_signal="INT", success_codes=[0, 143], aliases=["y"], cwd="/tmp")
    assert (spec.grace, spec.stop_signal, spec.success_codes) == (90.0, signal.SIGINT, frozenset({0, 143}))
    assert Readiness(probe={"strategy": "http", "path": "/health"}).probe == Choice("http", path="/health")


def test_an_option_may_have_any_name() -> None:
    assert Readiness(probe={"strategy": "x", "name": 1}).probe.options == {"name": 1}


def test_a_token_is_never_shown() -> None:
    spec = attrs.evolve(SPEC, token="s3cret", env={"PASSWORD": "s3cret"})
    assert "s3cret" not in repr(spec) + str(spec)
    with pytest.raises(trio_sup.InvalidValue) as caught:
        attrs.evolve(SPEC, token="s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_specifications_can_be_compared_and_hashed() -> None:
    assert {SPEC, attrs.evolve(SPEC)} == {SPEC}
    assert attrs.evolve(SPEC, grace=1) != SPEC


@pytest.mark.parametrize(
    ("text", "value"),
    [("500ms", 0.5), ("30s", 30), ("1m30s", 90), ("2h", 7200), (" 1.5s", 1.5), (3, 3), ("1h 1s", 3601)],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "s", "1", "1 fortnight", "-1s", "1s2", "1e3s", None, [], True, float("inf"), 10**400, "9" * 400 + "s"]
)
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(trio_sup.InvalidValue):
        seconds(text)


@pytest.mark.parametrize("text", [0, 0.0, "0s", "0ms", -1, "soon", None])
def test_what_is_no_duration_above_zero(text: Any) -> None:
    assert seconds_above_zero("1ms") == 0.001
    with pytest.raises(trio_sup.InvalidValue):
        seconds_above_zero(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0 s"), (0.5, "0.5 s"), (0.0012, "0.0012 s"), (7.500000001, "7.5 s"), (59.99, "59.99 s"), (60, "1 min"),
        (90.4, "1 min 30 s"), (3600, "1 h"), (7199.9, "2 h"), (5405, "1 h 30 min 5 s"), (360000, "100 h"),
    ],
)  # fmt: skip
def test_durations_in_words(duration: float, text: str) -> None:
    assert in_words(duration) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (512, "512 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536 * 2**10, "1.5 MiB"),
        (20 * 2**30, "20 GiB"), (2**40, "1 TiB"), (2**50, "1024 TiB"),
    ],
)  # fmt: skip
def test_sizes_in_words(size: int, text: str) -> None:
    assert bytes_in_words(size) == text


@given(st.text(max_size=10))
def test_any_text_is_a_duration_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(trio_sup.InvalidValue):
        assert seconds(text) >= 0
