"""The install lock between processes: kept by the kernel, gone with its holder, and no file stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conftest import descriptors
from trio_sup import InvalidValue
from trio_sup.defaults._file_lock import FileLock, UnsafeLockDirectory

HOLDER = """
import sys, trio
from trio_sup.defaults._file_lock import FileLock

async def main():
    async with FileLock(sys.argv[1]).hold("b", shared=sys.argv[2] == "shared"):
        print("held", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
"""

CONTENDER = """
import os, sys, trio
from trio_sup.defaults._file_lock import FileLock

async def contend(lock, proof, number):
    for turn in range(30):
        shared = (turn + number) % 3 == 0
        async with lock.hold("b", shared=shared):
            if shared:
                assert not os.path.exists(proof)
            else:
                os.close(os.open(proof, os.O_CREAT | os.O_EXCL))
                await trio.lowlevel.checkpoint()
                os.unlink(proof)

async def main():
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(contend, FileLock(sys.argv[1]), sys.argv[2], number)

trio.run(main)
"""


@asynccontextmanager
async def another_process(directory: Path, how: str) -> AsyncIterator[trio.Process]:
    """A process that holds the lock of "b" until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(directory), how]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with process.stdin, process.stdout:
            assert (await process.stdout.receive_some()).startswith(b"held")
            yield process
        assert await process.wait() in (0, -signal.SIGKILL)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def is_free(lock: FileLock, *, shared: bool = False) -> bool:
    with trio.move_on_after(0.1):
        async with lock.hold("b", shared=shared):
            return True
    return False


async def test_keeps_another_process_out_until_it_lets_go(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(20):
        async with another_process(tmp_path, "exclusive"):
            assert not await is_free(lock)
            assert not await is_free(lock, shared=True)
        assert await is_free(lock)
        async with another_process(tmp_path, "shared"):
            assert await is_free(lock, shared=True)
            assert not await is_free(lock)
        assert await is_free(lock)
    assert list(tmp_path.iterdir()) == []


async def test_sigkill_of_the_holder_frees_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(20):
        async with another_process(tmp_path, "exclusive") as holder:
            assert not await is_free(lock)
            holder.kill()
            async with lock.hold("b", shared=False):
                assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


async def test_processes_and_tasks_never_meet_and_leave_no_file(tmp_path: Path) -> None:
    """Every release removes the file while others are about to lock it."""
    directory, proof = tmp_path / "locks", tmp_path / "proof"
    command = [sys.executable, "-c", CONTENDER, str(directory), str(proof)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.run_process, command)
    assert list(directory.iterdir()) == []


async def test_tasks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(5):
        async with lock.hold("b", shared=True):
            assert await is_free(lock, shared=True)
            assert not await is_free(lock)
            async with lock.hold("other", shared=False):
                pass
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_wait_leaves_nothing_behind(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(5):
        async with lock.hold("b", shared=False):
            before = descriptors()
            assert not await is_free(lock)
            assert descriptors() == before
        assert list(tmp_path.iterdir()) == []
        assert await is_free(lock)


async def test_a_file_made_anew_by_hand_is_not_removed_by_the_holder_of_the_old_one(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    second_holds, first_gone = trio.Event(), trio.Event()

    async def first() -> None:
        async with lock.hold("b", shared=False):
            (tmp_path / "b.lock").unlink()
            nursery.start_soon(second)
            await second_holds.wait()
        first_gone.set()

    async def second() -> None:
        async with lock.hold("b", shared=False):
            second_holds.set()
            await first_gone.wait()
            assert (tmp_path / "b.lock").exists()
            assert not await is_free(lock)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../b", "a\0b"])
async def test_refuses_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with trio.fail_after(5), pytest.raises(InvalidValue):
        async with FileLock(tmp_path).hold(name, shared=True):
            pass
    assert list(tmp_path.iterdir()) == []


# ---- where the files are


async def place_of(lock: FileLock, under: Path) -> list[str]:
    with trio.fail_after(5):
        async with lock.hold("b", shared=True):
            return [str(path.relative_to(under)) for path in under.rglob("*.lock")]


async def test_by_default_it_is_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert await place_of(FileLock(), tmp_path) == ["trio-sup/locks/b.lock"]
    assert (tmp_path / "trio-sup").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("runtime", [None, "", "relative", "/nonexistent/runtime"])
async def test_without_one_it_is_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str | None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert await place_of(FileLock(), tmp_path) == [f"trio-sup-{os.getuid()}/locks/b.lock"]


async def test_a_given_directory_is_made(tmp_path: Path) -> None:
    assert await place_of(FileLock(str(tmp_path / "a" / "b")), tmp_path) == ["a/b/b.lock"]


@pytest.mark.parametrize("vice", ["symlink", "file", "open to others", "of another user"])
async def test_refuses_a_default_directory_others_can_tamper_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vice: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    base = tmp_path / "trio-sup"
    match vice:
        case "symlink":
            (tmp_path / "elsewhere").mkdir()
            base.symlink_to(tmp_path / "elsewhere")
        case "file":
            base.touch()
        case "open to others":
            base.mkdir()
            base.chmod(0o777)
        case "of another user":
            if os.getuid() != 0:
                pytest.skip("only root can give a directory away")
            base.mkdir(mode=0o700)
            os.chown(base, 12345, 12345)
    with trio.fail_after(5), pytest.raises(UnsafeLockDirectory, match="cannot be used for locks"):
        async with FileLock().hold("b", shared=True):
            pass


async def test_does_not_follow_a_link_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.lock").symlink_to(tmp_path / "victim")
    with trio.fail_after(5), pytest.raises(OSError, match="symbolic links"):
        async with FileLock(tmp_path).hold("b", shared=True):
            pass
    assert not (tmp_path / "victim").exists()


async def test_who_holds_it_is_told(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "locks")
    assert lock.holders("b") == ()
    assert not (tmp_path / "locks").exists()  # asking makes nothing
    with trio.fail_after(20):
        async with another_process(tmp_path / "locks", "shared") as holder:
            (told,) = lock.holders("b")
            assert told.endswith(f" (pid {holder.pid})")
            async with lock.hold("b", shared=True):
                pids = [holder.rpartition("pid ")[2].rstrip(")") for holder in lock.holders("b")]
                assert sorted(pids) == sorted([str(holder.pid), str(os.getpid())])
        assert lock.holders("b") == ()
    assert list((tmp_path / "locks").iterdir()) == []


async def test_those_who_wait_are_no_holders(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery, another_process(tmp_path, "exclusive") as holder:
            nursery.start_soon(is_free, lock)
            await trio.testing.wait_all_tasks_blocked()
            assert len(lock.holders("b")) == 1
            assert f"(pid {holder.pid})" in lock.holders("b")[0]


async def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with lock.hold("b", shared=False):
                sleeper = await nursery.start(trio.run_process, ["sleep", "1000"])
            try:
                assert await is_free(lock)
            finally:
                nursery.cancel_scope.cancel()
    assert sleeper.returncode is not None
