"""The stop policy on a real backend, under a real supervisor."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_sup_example

import trio_sup
from trio_sup import BackendSpec, InvalidOptions, InvalidValue, Readiness, StopReport
from trio_sup.engine import Output

CHILD = Path(__file__).parent / "children" / "hangs_up.py"


async def stopped(policy: Any, *ends_at: str, grace: float = 20) -> tuple[StopReport, list[str]]:
    """Run the child and stop it: how that went, and which signals it had."""
    written = b""

    def collect(output: Output) -> None:
        nonlocal written
        written += output.data

    spec = BackendSpec(
        name="hangs-up",
        command=[sys.executable, "-I", "-S", str(CHILD), "{port}", "--ends-at", *ends_at],
        readiness=Readiness(probe="tcp", timeout=20),
        stop_policy=policy,
        grace=grace,
    )
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(
            plugins=[trio_sup_example], install_lock="memory", ports="ephemeral", on_output=collect
        ) as sup:
            await sup.start(spec)
            (report,) = await sup.stop("hangs-up")
    return report, written.decode().splitlines()


async def test_a_backend_that_ends_at_sighup_is_sent_nothing_else() -> None:
    report, signals = await stopped("hang-up-first", "HUP", "TERM")
    assert report.gone
    assert report.report is not None
    assert not report.report.killed
    assert signals == ["got SIGHUP"]


async def test_a_backend_that_stays_gets_its_polite_signal_after_patience() -> None:
    report, signals = await stopped({"strategy": "hang-up-first", "patience": "200ms"}, "TERM")
    assert report.gone
    assert report.report is not None
    assert not report.report.killed
    assert report.report.stop_seconds >= 0.2
    assert signals == ["got SIGHUP", "got SIGTERM"]


async def test_a_backend_that_ignores_both_is_killed_after_its_grace() -> None:
    report, signals = await stopped({"strategy": "hang-up-first", "patience": 0.1}, grace=0.2)
    assert report.gone
    assert report.report is not None
    assert report.report.status is not None
    assert report.report.killed
    assert report.report.status.signal == signal.SIGKILL
    assert report.report.stop_seconds >= 0.3
    assert signals == ["got SIGHUP", "got SIGTERM"]


def test_patience_is_two_seconds_or_what_is_said() -> None:
    assert trio_sup_example.HangUpFirst().patience == 2
    assert trio_sup_example.HangUpFirst(patience="2s").patience == 2
    spec = BackendSpec(name="b", command=["b"], grace=3)
    assert trio_sup_example.HangUpFirst(patience=4).budget(spec) > 4 + 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"patience": -1}, "patience: a duration must not be negative"),
        ({"patience": "soon"}, "patience: expected a duration"),
        ({"patienc": 1}, "did you mean 'patience'"),
    ],
)
async def test_a_wrong_option_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptions, match=complaint):
        async with trio_sup.open_supervisor(
            plugins=[trio_sup_example], stop_policy={"strategy": "hang-up-first", **options}
        ):
            pass


def test_a_wrong_option_is_named_to_those_who_make_it_themselves() -> None:
    with pytest.raises(InvalidValue, match=r"^patience: a duration must not be negative"):
        trio_sup_example.HangUpFirst(patience=-1)
