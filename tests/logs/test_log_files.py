"""The one writer of all log files: batches, its own thread, failures that are told once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PosixPath

import pytest
import trio

import trio_sup
from tests.logs.test_log_file import contents, no_file_larger_than
from trio_sup import LogSettings, ProcessKey
from trio_sup.engine import _log_files
from trio_sup.engine._log_files import BACKLOG_BYTES, LogFiles
from trio_sup.events import LogFailed
from trio_sup.testing import FakeBackend, FakeSystem, cancel_at_every_step

KEY = ProcessKey("chat")
SETTINGS = LogSettings()


class Writing:
    """A writer at work, and what it said about failures."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.failures: list[LogFailed] = []
        self.files = LogFiles(directory, self.failures.append)

    def put(self, data: bytes, key: ProcessKey = KEY) -> None:
        self.files.put(key, 1, "stdout", 0.0, data, SETTINGS)

    async def everything_tried(self) -> None:
        """Wait until what was put has been written, or has failed to be."""
        while self.files._backlog or not self.files._news.statistics().tasks_waiting:
            await trio.sleep(0.001)


@asynccontextmanager
async def writing(directory: Path) -> AsyncIterator[Writing]:
    made = Writing(directory)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.files.run)
            yield made
            await made.files.finish()
            nursery.cancel_scope.cancel()


async def test_everything_is_written_until_the_end(tmp_path: Path) -> None:
    other = ProcessKey("other", 1)
    async with writing(tmp_path) as at_work:
        for number in range(1000):
            at_work.put(b"line %d\n" % number)
            at_work.put(b"said %d\n" % number, other)
        at_work.put(b"unfinished")
        at_work.put(b"")
    assert contents(tmp_path / "chat#0.log") == [*(f"line {number}" for number in range(1000)), "unfinished"]
    assert contents(tmp_path / "other#1.log") == [f"said {number}" for number in range(1000)]
    assert at_work.failures == []
    assert at_work.files._files.keys() == {other}  # nothing is kept of one that has ended


async def test_what_is_put_is_written_soon_without_an_end(tmp_path: Path) -> None:
    async with writing(tmp_path) as at_work:
        at_work.put(b"first\n")
        await at_work.everything_tried()
        at_work.put(b"second\n")
        await at_work.everything_tried()
        assert contents(tmp_path / "chat#0.log") == ["first", "second"]


async def test_a_flood_is_bounded_and_counted_and_costs_no_other_backend_a_line(tmp_path: Path) -> None:
    quiet = ProcessKey("quiet")
    async with writing(tmp_path) as at_work:
        at_work.put(b"before\n", quiet)
        for number in range(2 * BACKLOG_BYTES // 1000):
            at_work.put(b"%0999d\n" % number)
            assert at_work.files._backlog.cost <= BACKLOG_BYTES
        at_work.put(b"after\n", quiet)
    assert contents(tmp_path / "quiet#0.log") == ["before", "after"]
    lines = contents(tmp_path / "chat#0.log")
    (notice,) = [line for line in lines if "missing" in line]
    missing = int(notice.split()[0])
    assert missing > 0
    assert missing + 1000 * (len(lines) - 1) == 1000 * (2 * BACKLOG_BYTES // 1000)


async def test_a_full_disk_is_told_once_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    keys = [ProcessKey("chat", replica) for replica in range(3)]
    async with writing(tmp_path) as at_work:
        with no_file_larger_than(10):
            for _ in range(5):
                for key in keys:
                    at_work.put(b"no room\n", key)
                await at_work.everything_tried()
        for key in keys:
            at_work.put(b"room\n", key)
    (failure,) = at_work.failures
    assert failure.why == "File too large"
    assert failure.path == str(tmp_path / "chat#0.log")
    assert "goes on" in str(failure)
    for key in keys:
        assert contents(tmp_path / f"{key}.log") == ["40 bytes are missing here", "room"]


async def test_what_is_missing_at_the_end_is_told_if_there_is_room(tmp_path: Path) -> None:
    async with writing(tmp_path) as at_work:
        with no_file_larger_than(10):
            at_work.put(b"no room\n")
            await at_work.everything_tried()
    assert contents(tmp_path / "chat#0.log") == ["8 bytes are missing here"]


async def test_keys_that_ended_while_the_disk_was_full_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_files, "KEPT_FILES", 10)
    async with writing(tmp_path) as at_work:
        with no_file_larger_than(1):
            at_work.put(b"lives on\n", ProcessKey("first"))
            for number in range(100):
                at_work.put(b"no room\n", ProcessKey(str(number)))
                at_work.put(b"", ProcessKey(str(number)))
            await at_work.everything_tried()
        assert len(at_work.files._files) <= 11
        assert len(at_work.files._failing) <= 12
    assert contents(tmp_path / "first#0.log") == ["9 bytes are missing here"]


async def test_a_failure_that_comes_back_after_a_minute_is_told_again(tmp_path: Path) -> None:
    at_work = Writing(tmp_path)

    def at(seconds: float, key: ProcessKey, why: str | None) -> None:
        at_work.files._note(_log_files._Attempted(key, tmp_path / str(key), why is None, why), seconds)

    other = ProcessKey("other")
    at(0, KEY, "full")
    at(1, KEY, "full")
    at(2, other, "full")
    at(3, other, "not allowed")
    assert [failure.why for failure in at_work.failures] == ["full", "not allowed"]
    at(4, KEY, None)
    at(5, KEY, "full")  # it comes and goes: not worth another word
    at(200, KEY, "full")
    assert len(at_work.failures) == 2
    at(201, KEY, None)
    at(300, KEY, "full")
    assert [failure.why for failure in at_work.failures] == ["full", "not allowed", "full"]


async def test_a_backend_that_ended_while_the_disk_was_full_hides_no_later_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_files, "CALM", 0.0)
    other = ProcessKey("other")
    async with writing(tmp_path) as at_work:
        for expected in (1, 2):
            with no_file_larger_than(1):
                at_work.put(b"no room\n")
                at_work.put(b"")
                await at_work.everything_tried()
            assert len(at_work.failures) == expected
            for _ in range(2):
                at_work.put(b"room\n", other)
                await at_work.everything_tried()
            assert contents(tmp_path / "chat#0.log")[-1] == "8 bytes are missing here"


async def test_the_beginning_of_a_line_says_nothing_about_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log_files, "CALM", 0.0)
    async with writing(tmp_path) as at_work:
        with no_file_larger_than(1):
            for data in (b"no room\n", b"still", b" none\n", b"and", b"\n"):
                at_work.put(data)
                await at_work.everything_tried()
        assert len(at_work.failures) == 1


async def test_a_directory_that_cannot_be_made_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with writing(tmp_path / "file" / "logs") as at_work:
        for _ in range(3):
            at_work.put(b"hello\n")
            await at_work.everything_tried()
    assert [failure.why for failure in at_work.failures] == ["Not a directory"]


class HungDirectory(PosixPath):
    """Stands in for a disk that does not answer: making a path below it blocks until it is let go."""

    let_go = threading.Event()

    def __truediv__(self, name: str | Path) -> PosixPath:  # type: ignore[override]  # only ever a name
        assert HungDirectory.let_go.wait(60)
        return PosixPath(str(self)) / name

    def absolute(self) -> HungDirectory:
        return self


async def test_a_disk_that_does_not_answer_holds_up_the_end_only_so_long(tmp_path: Path) -> None:
    at_work = Writing(HungDirectory(tmp_path))
    HungDirectory.let_go.clear()
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at_work.files.run)
                for _ in range(5000):
                    at_work.put(b"x" * 999 + b"\n")
                    await trio.lowlevel.checkpoint()
                await at_work.files.finish(0.1)
                nursery.cancel_scope.cancel()
    finally:
        HungDirectory.let_go.set()
    (failure,) = at_work.failures
    assert "within 0.1 s" in failure.why


async def test_the_programs_threads_are_not_needed(tmp_path: Path) -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with limiter:
            async with writing(tmp_path) as at_work:
                at_work.put(b"hello\n")
            assert contents(tmp_path / "chat#0.log") == ["hello"]
    finally:
        limiter.total_tokens = before


@pytest.mark.usefixtures("nothing_survives")
async def test_whatever_was_read_before_a_cancellation_is_in_the_file(tmp_path: Path) -> None:
    count = 0
    read = ""

    async def whole_life() -> None:
        nonlocal count, read
        count += 1
        read = ""
        system = FakeSystem(FakeBackend(stderr=b"hello\n"))
        async with trio_sup.open_supervisor(system=system, install_lock="memory", log_dir=tmp_path / str(count)) as sup:
            try:
                await sup.start(trio_sup.BackendSpec(name="chat", command=["sh"]))
                async for line in sup.logs(KEY, follow=True):
                    system.children[0].write(b"more\n")
                    await trio.lowlevel.checkpoint()
                    if str(line) == "more":
                        break
            finally:
                read = "".join(f"{line}\n" for line in sup.logs(KEY))

    async def check() -> None:
        path = tmp_path / str(count) / "chat#0.log"
        written = "".join(f"{line}\n" for line in contents(path)) if path.exists() else ""
        assert written.startswith(read)

    with trio.fail_after(60):
        steps = await cancel_at_every_step(whole_life, check)
    assert steps > 20
    assert read == "hello\nmore\nmore\n"
