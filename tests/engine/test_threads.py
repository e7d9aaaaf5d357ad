"""What the supervisor does while the system refuses to start threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

import trio_sup
from trio_sup import BackendSpec, hookimpl
from trio_sup._exit_files import exits_in, read_all
from trio_sup.engine import _threads
from trio_sup.engine._event_stream import EventHub
from trio_sup.engine._releases import Releases
from trio_sup.engine._threads import in_thread
from trio_sup.events import Event
from trio_sup.testing import FakeBackend, FakeSystem

SPEC = BackendSpec(name="chat", command=[sys.executable, "-c", "pass"])


@attrs.define
class Threads:
    """Whether the system starts any, and how often it was asked in vain."""

    refused: bool = False
    refusals: int = 0

    async def refused_once_more(self) -> None:
        before = self.refusals
        while self.refusals == before:
            await trio.sleep(0.001)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    made = Threads()
    run_sync, start = trio.to_thread.run_sync, threading.Thread.start

    def refuse() -> None:
        if made.refused:
            made.refusals += 1
            raise RuntimeError("can't start new thread")

    async def run_or_refuse(*arguments: Any, **options: Any) -> Any:
        refuse()
        return await run_sync(*arguments, **options)

    def start_or_refuse(thread: threading.Thread) -> None:
        refuse()
        start(thread)

    monkeypatch.setattr(_threads, "PAUSE", 0.01)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_or_refuse)
    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    yield made
    made.refused = False


async def test_a_call_waits_for_its_thread(threads: Threads) -> None:
    threads.refused = True
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def allow_later() -> None:
                await threads.refused_once_more()
                threads.refused = False

            nursery.start_soon(allow_later)
            assert await in_thread(max, 1, 2, limiter=trio.CapacityLimiter(1)) == 2


async def test_what_a_call_raises_is_raised_once() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        await in_thread(fail, limiter=trio.CapacityLimiter(1))
    assert calls == [1]


async def test_a_supervisor_goes_on_and_writes_down_what_there_was_later(tmp_path: Path, threads: Threads) -> None:
    told: list[Event] = []

    class Observing:
        @hookimpl
        def trio_sup_observers(self) -> list[Any]:
            return [told.append]

    system = FakeSystem(FakeBackend(stderr=b"hello\n"))
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(
            system=system, install_lock="memory", state_dir=tmp_path, log_dir=tmp_path / "logs", plugins=[Observing()]
        ) as sup:
            threads.refused = True
            await sup.start(SPEC)
            await sup.stop("chat")
            for _ in range(5):
                await threads.refused_once_more()
            await sup.start(SPEC)
            assert told
            threads.refused = False
    assert (tmp_path / "logs" / "chat#0.log").read_text().count("hello") == 2
    assert read_all(exits_in(tmp_path)).reports == {sup.exit_reports("chat#0")[0].key: sup.exit_reports("chat#0")}


async def test_what_is_freed_while_there_are_none_waits_for_the_next_sweep(threads: Threads) -> None:
    class Store:
        async def sweep_trash(self) -> None:
            await trio.to_thread.run_sync(swept.set)

    swept = trio.Event()
    installer: Any = SimpleNamespace(store=Store())
    releases = Releases(installer=installer, auto_install=False, hub=EventHub())
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(releases.sweep_what_is_freed)
            threads.refused = True
            releases._freed.set()
            await threads.refused_once_more()
            await releases.finish()
            assert threads.refusals == 2
            threads.refused = False
            await releases.finish()
            nursery.cancel_scope.cancel()
    assert swept.is_set()
