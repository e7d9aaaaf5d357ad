"""Exit reports in the state directory: over restarts, SIGKILL, full disks and disks that hang."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from tests.state.test_report_tables import REPORT
from trio_sup import BackendSpec, Cause, ConfigError, ExitReport, ProcessKey, Readiness, events
from trio_sup._exit_files import exits_in, name_of, read_all, write
from trio_sup.engine import _report_memory
from trio_sup.engine._report_memory import ReportMemory
from trio_sup.testing import FakeBackend, FakeSystem

ROOT = Path(__file__).parent.parent.parent
KEY = ProcessKey("store", 0)
SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])


async def ended(state: Path, times: int = 1) -> tuple[ExitReport, ...]:
    """The reports of a run in which a backend was stopped so often."""
    async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem(), install_lock="memory") as sup:
        for _ in range(times):
            await sup.start(SPEC)
            await sup.stop(KEY)
    return sup.exit_reports(KEY)


def reports(count: int, key: ProcessKey = KEY, first: int = 0) -> list[ExitReport]:
    return [
        ExitReport(
            key=key, generation=number, pid=1, cause=Cause.EXITED, phase=trio_sup.Phase.READY, status=None,
            success=False, ended_at=0, lived=0, stop_seconds=0,
        )
        for number in range(first, first + count)
    ]  # fmt: skip


async def test_a_new_supervisor_tells_of_the_ends_of_an_earlier_one(tmp_path: Path) -> None:
    with trio.fail_after(20):
        first = await ended(tmp_path)
        async with trio_sup.open_supervisor(state_dir=tmp_path, system=FakeSystem(), install_lock="memory") as sup:
            assert sup.exit_reports("store#0") == first
            await sup.start(SPEC)
            await sup.stop(KEY)
            assert sup.exit_reports(KEY)[:1] == first
        both = sup.exit_reports(KEY)
        assert len(both) == 2
    assert read_all(exits_in(tmp_path)).reports == {KEY: both}


async def test_a_program_may_change_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(state_dir="state", system=FakeSystem(), install_lock="memory") as sup:
            monkeypatch.chdir(tmp_path / "elsewhere")
            await sup.start(SPEC)
            await sup.stop(KEY)
    assert read_all(exits_in(tmp_path / "state")).reports == {KEY: sup.exit_reports(KEY)}
    assert os.listdir(tmp_path / "elsewhere") == []


async def test_an_end_without_a_process_does_not_take_the_report_of_an_earlier_run_for_its_own(tmp_path: Path) -> None:
    with trio.fail_after(20):
        await ended(tmp_path)
        system = FakeSystem(FakeBackend(launch_error=PermissionError(13, "no")))
        async with trio_sup.open_supervisor(state_dir=tmp_path, system=system, install_lock="memory") as sup:
            stream = sup.events()
            with pytest.raises(trio_sup.LaunchFailed):
                await sup.start(SPEC)
            assert (await next_of(stream, events.BackendGone)).report is None


async def test_the_last_twenty_are_kept(tmp_path: Path) -> None:
    with trio.fail_after(20):
        first = await ended(tmp_path, 15)
        second = await ended(tmp_path, 15)
    assert len(first) == 15
    assert len(second) == 20
    assert second[:5] == first[-5:]
    assert read_all(exits_in(tmp_path)).reports == {KEY: second}


async def test_without_a_state_directory_they_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        for _ in range(22):
            await sup.start(SPEC)
            await sup.stop(KEY)
        assert [report.generation for report in sup.exit_reports(KEY)] == list(range(3, 23))
    assert os.listdir(tmp_path) == []


async def test_everything_in_the_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    before = os.umask(0)
    try:
        with trio.fail_after(20):
            async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem(), install_lock="memory") as sup:
                await sup.start(SPEC)
                await sup.stop(KEY)
                found = [state, *state.rglob("*")]
                modes = {path.relative_to(state).parts[:1]: stat.S_IMODE(path.stat().st_mode) for path in found}
    finally:
        os.umask(before)
    assert modes.keys() >= {(), ("exits",), ("trees",)}
    for path in [state, *state.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_token_is_in_no_file(tmp_path: Path) -> None:
    spec = BackendSpec(
        name="store", command=child_command("dies_before_ready"), token="geheim", readiness=Readiness(probe="tcp")
    )
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(state_dir=tmp_path) as sup:
            with pytest.raises(trio_sup.DiedDuringStartup):
                await sup.start(spec)
            (report,) = sup.exit_reports(KEY)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(report.stderr_tail.splitlines()[-1].encode() in data for data in written)
    assert not any(b"geheim" in data for data in written)


async def test_a_file_that_is_wrong_is_named_in_the_log_and_the_others_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = exits_in(tmp_path)
    with trio.fail_after(20):
        first = await ended(tmp_path)
        broken = directory / name_of(ProcessKey("broken", 0))
        broken.write_bytes(b'{"key": "broken#0", "reports": [{')
        foreign = directory / "README"
        foreign.write_text("what is this?")
        async with trio_sup.open_supervisor(state_dir=tmp_path, system=FakeSystem(), install_lock="memory") as sup:
            assert sup.exit_reports(KEY) == first
            assert sup.exit_reports("broken#0") == ()
            await sup.start(SPEC, model="broken")
            await sup.stop("broken#0")
    warned = [record.getMessage() for record in caplog.records if record.name == "trio_sup.state"]
    assert len(warned) == 2
    assert warned[0].startswith(f"{foreign} is left out: ")
    assert warned[1].startswith(f"{broken} is left out: ")
    assert foreign.read_text() == "what is this?"
    assert read_all(directory).reports.keys() == {KEY, ProcessKey("broken", 0)}


@pytest.mark.parametrize("in_the_way", ["", "exits", "trees"])
async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path, in_the_way: str) -> None:
    state = tmp_path / "state"
    if in_the_way:
        state.mkdir()
    (state / in_the_way).write_text("no directory")
    with pytest.raises(ConfigError, match="cannot be used as state directory"):
        async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
            pass


# ---- the end of the supervisor itself

PROGRAM = """
import resource, sys, trio, trio_sup
from trio_sup import events
from tests.conftest import child_command

async def main():
    state, limit, *children = sys.argv[1:]
    if limit != "no":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    async with trio_sup.open_supervisor(state_dir=state, install_lock="memory") as sup:
        stream = sup.events()
        async def tell():
            async for event in stream:
                print(type(event).__name__, event, flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            for number, child in enumerate(children):
                spec = trio_sup.BackendSpec(
                    name="store", command=child_command(child), readiness=trio_sup.Readiness(probe="tcp")
                )
                try:
                    await sup.start(spec, replica=number)
                except trio_sup.DiedDuringStartup as error:
                    print("died", error.key, flush=True)
            print("reports", *(len(sup.exit_reports(f"store#{number}")) for number in range(len(children))), flush=True)
            if await trio.to_thread.run_sync(sys.stdin.readline) == "lift\\n":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                await sup.start(spec, model="last")
            print("ends", flush=True)
            nursery.cancel_scope.cancel()
    print("ended", flush=True)

trio.run(main)
"""


@contextmanager
def program(state: Path, *children: str, limit: str = "no") -> Iterator[subprocess.Popen[str]]:
    """A program that embeds trio-sup, and tells what happens."""
    command = [sys.executable, "-c", PROGRAM, str(state), limit, *children]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(text):
            return lines
    raise AssertionError(f"it ended without saying {text!r}: {lines}")


async def test_reports_survive_a_sigkill(tmp_path: Path) -> None:
    with program(tmp_path, "dies_before_ready", "dies_before_ready") as process:
        read_until(process, "reports 1 1")
        # They are written beside what else goes on: soon, but not at once.
        give_up_at = time.monotonic() + 10
        while len(read_all(exits_in(tmp_path)).reports) < 2 and time.monotonic() < give_up_at:
            pass
        process.send_signal(signal.SIGKILL)
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(state_dir=tmp_path) as sup:
            for number in range(2):
                (report,) = sup.exit_reports(f"store#{number}")
                assert report.cause is Cause.EXITED
                assert report.stderr_tail


def test_a_full_disk_is_reported_once_and_takes_nothing_down(tmp_path: Path) -> None:
    with program(tmp_path, *["dies_before_ready"] * 4, limit="0") as process:
        lines = read_until(process, "reports")
        assert lines[-1] == "reports 1 1 1 1"
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.flush()
        lines += read_until(process, "ended")
    assert [line for line in lines if line.startswith("StateNotWritten")] == [
        line for line in lines if "File too large" in line
    ]
    assert len([line for line in lines if line.startswith("StateNotWritten")]) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    with program(tmp_path, *["dies_before_ready"] * 3, "listens", limit="0") as process:
        read_until(process, "reports 1 1 1 0")
        assert process.stdin is not None
        process.stdin.write("lift\n")
        process.stdin.flush()
        read_until(process, "ended")
    found = read_all(exits_in(tmp_path)).reports
    assert sorted(map(str, found)) == ["last#0", "store#0", "store#1", "store#2", "store#3"]
    assert os.listdir(tmp_path / "trees") == []


# ---- the writer by itself


@contextmanager
def hanging(directory: Path, key: ProcessKey) -> Iterator[None]:
    """Let whoever writes the reports of *key* hang, as a dead network file system would."""
    pipe = directory / f"{name_of(key)}.tmp"
    os.mkfifo(pipe)
    try:
        yield
    finally:
        # Whoever hangs there goes on, and finds nobody to read.
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        pipe.unlink(missing_ok=True)


def memory() -> tuple[ReportMemory, list[str]]:
    failures: list[str] = []
    return ReportMemory(lambda path, error: failures.append(f"{path.name}: {error.strerror}"), failures.clear), failures


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_the_end(tmp_path: Path) -> None:
    kept, _ = memory()
    with hanging(tmp_path, KEY):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.write_to, tmp_path)
            longest = 0.0
            for report in reports(100):
                began = time.monotonic()
                kept.keep(report)
                longest = max(longest, time.monotonic() - began)
            with trio.fail_after(_report_memory.FLUSH_TIMEOUT + 2):
                assert not await kept.written()
            nursery.cancel_scope.cancel()
        assert [report.generation for report in kept.of(KEY)] == list(range(80, 100))
    assert longest < 0.05


async def test_the_end_of_a_supervisor_is_bounded_though_its_disk_hangs(tmp_path: Path) -> None:
    await ended(tmp_path)
    with hanging(exits_in(tmp_path), KEY):
        began = trio.current_time()
        with trio.fail_after(20):
            async with trio_sup.open_supervisor(state_dir=tmp_path, system=FakeSystem(), install_lock="memory") as sup:
                # What a killed writer had left is cleared away at the opening.
                os.mkfifo(exits_in(tmp_path) / f"{name_of(KEY)}.tmp")
                await sup.start(SPEC)
                await sup.stop(KEY)
                assert len(sup.exit_reports(KEY)) == 2
    assert trio.current_time() - began < _report_memory.FLUSH_TIMEOUT + 3


async def test_many_keys_that_end_together_are_all_written(tmp_path: Path) -> None:
    kept, failures = memory()
    keys = [ProcessKey("m", number) for number in range(170)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.write_to, tmp_path)
        for key in keys:
            for report in reports(3, key):
                kept.keep(report)
        with trio.fail_after(20):
            assert await kept.written()
        nursery.cancel_scope.cancel()
    assert failures == []
    found = read_all(tmp_path).reports
    assert found == {key: tuple(reports(3, key)) for key in keys}


async def test_what_was_kept_before_the_writer_ran_is_written(tmp_path: Path) -> None:
    kept, _ = memory()
    kept.keep(*reports(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.write_to, tmp_path)
        with trio.fail_after(20):
            assert await kept.written()
        nursery.cancel_scope.cancel()
    assert read_all(tmp_path).reports == {KEY: tuple(reports(1))}


async def test_a_directory_that_was_tidied_away_is_made_again(tmp_path: Path) -> None:
    kept, failures = memory()
    directory = tmp_path / "exits"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.write_to, directory)
        kept.keep(*reports(1))
        with trio.fail_after(20):
            assert await kept.written()
        nursery.cancel_scope.cancel()
    assert failures == []
    assert read_all(directory).reports.keys() == {KEY}


async def test_one_file_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    kept, _ = memory()
    other = ProcessKey("other", 0)
    (tmp_path / name_of(KEY)).mkdir()
    failures: list[str] = []
    kept = ReportMemory(lambda path, error: failures.append(path.name), lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.write_to, tmp_path)
        kept.keep(*reports(1))
        kept.keep(*reports(1, other))
        with trio.fail_after(5):
            assert not await kept.written()
        nursery.cancel_scope.cancel()
    assert set(failures) == {name_of(KEY)}
    assert read_all(tmp_path).reports == {other: tuple(reports(1, other))}


def test_what_was_recalled_makes_room_for_what_is_new() -> None:
    kept, _ = memory()
    kept.recall({KEY: reports(20)})
    kept.keep(*reports(1, first=20))
    assert [report.generation for report in kept.of(KEY)] == list(range(1, 21))


def test_a_report_with_everything_is_written_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, REPORT.key, [REPORT])
    assert read_all(tmp_path).reports == {REPORT.key: (REPORT,)}
