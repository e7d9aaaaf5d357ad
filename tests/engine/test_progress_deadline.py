"""A readiness deadline that signs of progress move, on fake processes and a virtual clock."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.engine.test_lifecycle import KEY, SPEC, supervised, until_phase
from tests.engine.test_restarts import launches, on_failure
from trio_sup import Cause, Phase, Readiness
from trio_sup.testing import FakeBackend, FakeChild

SIGNS = ["output", "reads", "memory"]


def waited_for(**readiness: Any) -> trio_sup.BackendSpec:
    return attrs.evolve(SPEC, readiness=Readiness(**{"timeout": 10, **readiness}))


async def failure(sup: trio_sup.Supervisor, spec: trio_sup.BackendSpec) -> tuple[float, trio_sup.NotReadyInTime]:
    """After how many seconds the start of *spec* failed, and how."""
    began = trio.current_time()
    with pytest.raises(trio_sup.NotReadyInTime) as caught:
        await sup.start(spec)
    return trio.current_time() - began, caught.value


@pytest.mark.parametrize("sign", SIGNS)
async def test_each_sign_of_progress_begins_the_timeout_anew(autojump_clock: MockClock, sign: str) -> None:
    loading = FakeBackend(healthy_after=95, works_from=0, works_until=95, work=[sign])
    async with supervised(loading) as (sup, _):
        backend = await sup.start(waited_for(progress=[sign]))
        assert backend.start_seconds == pytest.approx(95, abs=0.3)


@pytest.mark.parametrize("sign", SIGNS)
async def test_without_progress_the_plain_deadline_holds(autojump_clock: MockClock, sign: str) -> None:
    async with supervised(FakeBackend(healthy_after=95, memory_bytes=2**30, stderr=b"starting\n")) as (sup, _):
        took, error = await failure(sup, waited_for(progress=[sign]))
        assert took == pytest.approx(10)
        assert (error.timeout, error.hard_limit) == (10, False)
        assert "did not become ready within 10s" in str(error)
        assert "Raise readiness.timeout" in str(error)


@pytest.mark.parametrize(("work", "progress"), [
    (SIGNS, []), (["cpu"], SIGNS), (["output"], ["reads", "memory"]), (["reads"], ["output"]), (["memory"], ["reads"]),
])  # fmt: skip
async def test_only_the_signs_that_were_chosen_count(
    autojump_clock: MockClock, work: list[str], progress: list[str]
) -> None:
    async with supervised(FakeBackend(healthy_after=95, works_from=0, work=work)) as (sup, _):
        took, error = await failure(sup, waited_for(progress=progress))
        assert took == pytest.approx(10)
        assert error.timeout == 10


async def test_progress_that_stops_leaves_one_more_timeout(autojump_clock: MockClock) -> None:
    stuck = FakeBackend(healthy_after=math.inf, works_from=0, works_until=40, work=["reads"])
    async with supervised(stuck) as (sup, _):
        took, error = await failure(sup, waited_for(progress=["reads"]))
        assert took == pytest.approx(50, abs=1)
        assert error.timeout == pytest.approx(took)
        assert f"within {error.timeout:g}s" in str(error)
        assert not error.hard_limit
        assert sup.exit_reports(KEY)[0].cause is Cause.DEADLINE


@pytest.mark.parametrize(("max_timeout", "seconds"), [(60, 60), (10, 10), (None, 100)])
async def test_no_progress_helps_beyond_the_hard_limit(
    autojump_clock: MockClock, max_timeout: float | None, seconds: float
) -> None:
    for_ever = FakeBackend(healthy_after=math.inf, works_from=0, work=["output"])
    async with supervised(for_ever) as (sup, _):
        took, error = await failure(sup, waited_for(progress=["output"], max_timeout=max_timeout))
        assert took == pytest.approx(seconds)
        assert (error.timeout, error.hard_limit) == (seconds, True)
        assert f"within {seconds:g}s on 127.0.0.1:21000, although it made progress." in str(error)
        assert "Raise readiness.max_timeout" in str(error)


async def test_what_cannot_be_measured_is_waited_for_up_to_the_hard_limit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreadable(self: FakeChild, **options: Any) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(FakeChild, "usage", unreadable)
    async with supervised(FakeBackend(healthy_after=math.inf)) as (sup, _):
        took, _ = await failure(sup, waited_for(progress=["reads"], max_timeout=60))
        assert took == pytest.approx(60)


async def test_a_death_meanwhile_is_told_at_once(autojump_clock: MockClock) -> None:
    dies = FakeBackend(listens_after=99, exits_after=33, works_from=0, work=["output"])
    async with supervised(dies) as (sup, _):
        with pytest.raises(trio_sup.DiedDuringStartup):
            await sup.start(waited_for(progress=["output"]))
        assert trio.current_time() == pytest.approx(33, abs=0.1)


async def test_a_stop_meanwhile_is_heeded_at_once(autojump_clock: MockClock) -> None:
    loading = FakeBackend(healthy_after=95, works_from=0, work=["output"])
    async with supervised(loading) as (sup, _), trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup):
                await sup.start(waited_for(progress=["output"]))

        nursery.start_soon(start)
        await until_phase(sup, Phase.STARTING)
        await trio.sleep(33)
        await sup.stop(KEY)
        assert trio.current_time() == pytest.approx(33, abs=0.1)


async def test_each_attempt_has_its_own_deadline(autojump_clock: MockClock) -> None:
    loading = FakeBackend(healthy_after=math.inf, works_from=0, works_until=40, work=["reads"])
    idle = FakeBackend(healthy_after=math.inf)
    async with supervised(loading, idle, restart_policy=on_failure(max_start_failures=2)) as (sup, system):
        with pytest.raises(trio_sup.GivenUp) as caught:
            await sup.start(waited_for(progress=["reads"]))
        assert isinstance(caught.value.last, trio_sup.NotReadyInTime)
        assert caught.value.last.timeout == 10
        assert launches(system)[1] == pytest.approx(51, abs=1)


async def test_an_internal_error_meanwhile_is_contained(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised() as (sup, system):

        async def broken(port: int) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(system, "wait_for_listener", broken)
        with pytest.raises(trio_sup.AttemptCrashed, match="a bug"):
            await sup.start(waited_for(progress=["reads"]))
