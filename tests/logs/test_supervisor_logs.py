"""Reading and following what backends write, on imagined processes under a virtual clock."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_sup
from trio_sup import BackendSpec, InvalidValue, LinesLost, LogLine, LogSettings, ProcessKey
from trio_sup.engine import _logs
from trio_sup.testing import FakeBackend, FakeSystem

KEY = ProcessKey("chat")


def spec(**fields: Any) -> BackendSpec:
    return BackendSpec(name="chat", command=["sh"], **fields)


def told(lines: object) -> list[str]:
    assert isinstance(lines, tuple)
    return [f"{line.generation} {line.stream} {line.text}" for line in lines]


async def test_lines_are_values_with_time_key_generation_and_stream(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        before = time.time()
        await sup.start(spec())
        system.children[0].write(b"caf\xc3\xa9\n\xff\n", "stderr")
        first, second = sup.logs("chat#0")
        assert before <= first.time <= time.time()
        assert first == LogLine(time=first.time, key=KEY, generation=1, stream="stderr", text="café")
        assert second.text == "\\xff"


async def test_reading_shows_a_line_that_has_not_ended_and_following_waits_for_its_end(
    autojump_clock: MockClock,
) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec())
        system.children[0].write(b"done\nloading ", "stdout")
        assert [line.text for line in sup.logs(KEY)] == ["done", "loading "]
        follower = sup.logs(KEY, follow=True)
        assert str(await next_of(follower)) == "done"
        system.children[0].write(b"model\n", "stdout")
        assert str(await next_of(follower)) == "loading model"


async def test_only_the_last_lines_if_that_is_asked_for(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec())
        (child,) = system.children
        for number in range(10):
            child.write(b"out %d\n" % number, "stdout")
            child.write(b"err %d\n" % number, "stderr")
        child.write(b"and", "stdout")
        assert [line.text for line in sup.logs(KEY, lines=3)] == ["out 9", "err 9", "and"]
        assert sup.logs(KEY, lines=0) == ()
        assert len(sup.logs(KEY, lines=1000)) == 21
        for count, first in ((2, "out 9"), (0, "and more")):
            follower = sup.logs(KEY, lines=count, follow=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, follower, first)
                await trio.testing.wait_all_tasks_blocked()
                child.write(b" more\nand", "stdout")
            for rest in ("err 9", "and more") if count else ():
                await expect(follower, rest)


async def next_of(follower: Any) -> Any:
    with trio.fail_after(5):
        return await anext(follower)


async def expect(follower: Any, text: str) -> None:
    assert str(await next_of(follower)) == text


@pytest.mark.parametrize("lines", [-1, 1.5, True, "3"])
async def test_a_number_of_lines_that_makes_no_sense_is_refused(autojump_clock: MockClock, lines: Any) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem()) as sup:
        with pytest.raises(InvalidValue, match="number of lines"):
            sup.logs("chat#0", lines=lines)
        with pytest.raises(InvalidValue, match="number of lines"):
            sup.logs("chat#0", lines=lines, follow=True)


async def test_a_key_that_never_wrote_has_no_lines_and_a_text_must_be_a_key(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem()) as sup:
        assert sup.logs("never#0") == ()
        with pytest.raises(InvalidValue, match="process key"):
            sup.logs("never")


async def test_what_earlier_attempts_wrote_stays_readable_after_restart_end_and_close(
    autojump_clock: MockClock,
) -> None:
    system = FakeSystem([FakeBackend(stderr=b"first\n"), FakeBackend(stderr=b"second\nunfinished")])
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec())
        await sup.stop("chat")
        assert told(sup.logs(KEY)) == ["1 stderr first"]
        await sup.start(spec())
        await sup.stop("chat")
    assert told(sup.logs(KEY)) == ["1 stderr first", "2 stderr second", "2 stderr unfinished"]


async def test_a_follower_sees_every_line_once_over_restarts_and_ends_with_the_supervisor(
    autojump_clock: MockClock,
) -> None:
    system = FakeSystem()
    seen: list[str] = []

    async def follow(lines: Any) -> None:
        async for line in lines:
            assert isinstance(line, LogLine)
            seen.append(f"{line.generation} {line.text}")

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery, trio_sup.open_supervisor(system=system) as sup:
            nursery.start_soon(follow, sup.logs(KEY, follow=True))  # before there is anything
            await sup.start(spec())
            system.children[0].write(b"one\ntwo", "stdout")
            await trio.testing.wait_all_tasks_blocked()
            assert seen == ["1 one"]
            await sup.stop("chat")
            await sup.start(spec())
            await trio.testing.wait_all_tasks_blocked()
            assert seen == ["1 one", "1 two"]
            system.children[1].write(b"three\nlast words", "stdout")
    assert seen == ["1 one", "1 two", "2 three", "2 last words"]


async def test_a_follower_that_begins_in_the_middle_has_neither_gap_nor_repetition(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec(logs=LogSettings(ring_bytes="1MiB")))
        numbers = itertools.count()
        results: list[list[str]] = []

        async def follow() -> None:
            found: list[str] = []
            results.append(found)
            async for line in sup.logs(KEY, follow=True):
                found.append(str(line))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(follow)
                for _ in range(20):
                    system.children[0].write(b"%d\n%d" % (next(numbers), next(numbers)), "stdout")
                    system.children[0].write(b"\n", "stdout")
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert results == [[str(number) for number in range(next(numbers))]] * 50


async def test_a_slow_follower_is_told_how_much_it_missed(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec(logs=LogSettings(ring_bytes="4KiB")))
        follower = sup.logs(KEY, follow=True)
        for number in range(1000):
            system.children[0].write(b"line %d\n" % number, "stdout")
        lost = await next_of(follower)
        assert isinstance(lost, LinesLost)
        assert (lost.key, lost.stream) == (KEY, "stdout")
        assert str(await next_of(follower)) == f"line {lost.lines}"


async def test_waiting_followers_that_are_cancelled_lose_nothing(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec())
        follower = sup.logs(KEY, follow=True)
        with trio.move_on_after(3):
            await next_of(follower)
        system.children[0].write(b"hello\n", "stdout")
        with trio.CancelScope() as scope:
            scope.cancel()
            await next_of(follower)
        assert scope.cancelled_caught
        assert str(await next_of(follower)) == "hello"


async def test_only_so_many_keys_are_kept_that_write_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_logs, "KEPT_KEYS", 3)
    system = FakeSystem(FakeBackend(stderr=b"hello\n"))
    async with trio_sup.open_supervisor(system=system) as sup:
        await sup.start(spec(), model="lives")
        follower = sup.logs("followed#0", follow=True)
        await sup.start(spec(), model="followed")
        await sup.stop("followed")
        for number in range(6):
            await sup.start(spec(), model=str(number))
            await sup.stop(str(number))
        kept = [model for model in ("lives", "followed", *"012345") if sup.logs(f"{model}#0")]
        assert kept == ["lives", "followed", "4", "5"]
        # It would miss what comes if it were forgotten.
        assert str(await next_of(follower)) == "hello"
        await sup.start(spec(), model="followed")
        assert str(await next_of(follower)) == "hello"
        await sup.stop("followed")
        del follower
        for number in range(6, 9):
            await sup.start(spec(), model=str(number))
            await sup.stop(str(number))
        assert sup.logs("followed#0") == ()
        assert len(sup._logs._kept) == 4


async def test_the_exit_report_has_the_last_lines_of_its_own_attempt(autojump_clock: MockClock) -> None:
    first = FakeBackend(stderr=b"".join(b"line %d\n" % number for number in range(100)) + b"\n\n")
    second = FakeBackend(stderr=b"\x80" * 40_000 + b"the end")
    system = FakeSystem([first, second, FakeBackend()])
    async with trio_sup.open_supervisor(system=system) as sup:
        for _ in range(3):
            await sup.start(spec())
            await sup.stop("chat")
        tails = [report.stderr_tail for report in sup.exit_reports(KEY)]
    assert tails[0].splitlines() == [f"line {number}" for number in range(80, 100)]
    assert tails[1].endswith("the end")
    assert len(tails[1]) <= 4 * _logs.TAIL_BYTES
    assert tails[2] == ""


async def test_the_memory_for_a_key_is_what_the_running_attempt_asks_for(autojump_clock: MockClock) -> None:
    system = FakeSystem(FakeBackend(stderr=b"x" * 99 + b"\n"))
    async with trio_sup.open_supervisor(system=system) as sup:
        for size in ("100KiB", "4KiB"):
            await sup.start(spec(logs=LogSettings(ring_bytes=size)))
            for _ in range(1000):
                system.children[-1].write(b"y" * 99 + b"\n", "stdout")
            await sup.stop("chat")
            kept = sum(len(line.text) + 1 for line in sup.logs(KEY))
            limit = LogSettings(ring_bytes=size).ring_bytes
            assert limit / 2 <= kept <= limit
