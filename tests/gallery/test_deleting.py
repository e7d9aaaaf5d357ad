"""Deleting a release by any of its names, unless somebody uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.gallery.installs import Scripted, installer_of, leftovers, live, version_of, write_version
from tests.gallery.test_store import HOLDER
from trio_sup import InvalidValue
from trio_sup._gallery_errors import ReleaseInUse, UnknownRelease
from trio_sup.defaults._memory_lock import MemoryLock
from trio_sup.gallery import _deleting
from trio_sup.gallery._trash import Trash

ENTRIES = (
    {"name": "engine", "capabilities": {"default": "cpu-engine"}},
    {"name": "motor", "capabilities": {"default": "cpu-engine"}},
    {"name": "cpu-engine", "alias": "nick", "uri": "test://cpu/1"},
    {"name": "other", "uri": "test://other/1"},
)


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


@pytest.mark.parametrize("name", ["engine", "motor", "nick", "cpu-engine"])
async def test_every_name_takes_all_of_it_and_nothing_else(backends: Path, name: str) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    for each in ("engine", "motor", "other"):
        await installer.install(each)
    assert live(backends) == ["cpu-engine", "engine", "motor", "other"]
    deleted = await installer.delete(name)
    assert (deleted.name, deleted.concrete) == (name, "cpu-engine")
    assert live(backends) == ["other"]
    assert leftovers(backends) == []
    with pytest.raises(UnknownRelease, match=f"'{name}' is not installed"):
        await installer.delete(name)


async def test_a_meta_whose_release_is_gone_can_be_deleted(backends: Path) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("engine")
    (backends / "cpu-engine").rename(backends / ".away")
    deleted = await installer.delete("engine")
    assert not deleted.runnable
    assert live(backends) == [".away"]


async def test_a_broken_release_can_be_deleted(backends: Path) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("other")
    (backends / "other" / "run.sh").unlink()
    (backends / "other" / "metadata.json").write_text("{")
    assert (await installer.delete("other")).problem is not None
    assert live(backends) == []


async def test_what_came_with_the_machine_stays(backends: Path, tmp_path: Path) -> None:
    write_version(tmp_path / "system" / "one", "1")
    installer = installer_of(backends, system_dir=tmp_path / "system")
    with pytest.raises(InvalidValue, match="came with the machine"):
        await installer.delete("one")
    assert version_of(tmp_path / "system" / "one") == "1"


async def test_before_runs_under_the_lock_and_what_it_raises_leaves_all_as_it_was(backends: Path) -> None:
    lock = MemoryLock()
    installer = installer_of(backends, *ENTRIES, source=Scripted(), lock=lock)
    await installer.install("engine")

    async def refuse() -> None:
        for name in ("engine", "cpu-engine", "nick"):
            with trio.move_on_after(0.02) as scope:
                async with lock.hold(name, shared=True):
                    pass
            assert scope.cancelled_caught
        raise RuntimeError("it does not stop")

    with trio.fail_after(10), pytest.raises(RuntimeError, match="it does not stop"):
        await installer.delete("nick", before=refuse)
    assert live(backends) == ["cpu-engine", "engine"]


async def test_another_process_that_uses_it_is_named_and_nothing_stopped(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("engine")
    script = tmp_path / "another-supervisor.py"
    script.write_text(HOLDER)
    command = [sys.executable, str(script), str(backends / "cpu-engine")]
    called = False

    async def before() -> None:
        nonlocal called
        called = True

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with trio.fail_after(10), pytest.raises(ReleaseInUse, match=rf"another-supervisor \(pid {process.pid}\)"):
            await installer.delete("engine", before=before)
        assert live(backends) == ["cpu-engine", "engine"]
        assert process.stdin is not None
        process.stdin.close()
    assert not called
    await installer.delete("engine", before=before)
    assert called
    assert live(backends) == []


async def test_what_we_use_ourselves_must_be_let_go_of_by_before(backends: Path) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("other")
    hold = installer.store.hold(backends / "other")

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async def let_go() -> None:
        hold.close()
        await trio.lowlevel.checkpoint()

    with pytest.raises(ReleaseInUse, match=str(os.getpid())):
        await installer.delete("other", before=nothing)
    await installer.delete("other", before=let_go)
    assert live(backends) == []


async def test_what_cannot_be_moved_away_leaves_all_as_it_was(backends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("engine")
    take = Trash.take

    def failing(self: Trash, path: Path) -> Path:
        if path.name == "cpu-engine":
            raise OSError(16, "Device or resource busy")
        return take(self, path)

    monkeypatch.setattr(Trash, "take", failing)
    with pytest.raises(OSError, match="a file system is mounted there"):
        await installer.delete("engine")
    assert live(backends) == ["cpu-engine", "engine"]
    assert installer.find("engine").runnable


async def test_no_meta_ever_stands_for_what_is_gone(backends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("engine")
    await installer.install("motor")
    seen: list[list[str]] = []
    take = Trash.take

    def looking(self: Trash, path: Path) -> Path:
        place = take(self, path)
        seen.append([release.name for release in installer.installed()])
        assert all(release.problem is None for release in installer.installed())
        return place

    monkeypatch.setattr(Trash, "take", looking)
    await installer.delete("motor")
    assert seen == [["cpu-engine", "motor", "nick"], ["cpu-engine", "nick"], []]


async def test_what_the_name_means_by_now_is_deleted(backends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the lock, another release was put under the name."""
    installer = installer_of(backends, *ENTRIES, source=Scripted())
    await installer.install("engine")
    look, looks = _deleting._deletion_of, 0

    def looking(*args: object) -> object:
        nonlocal looks
        looks += 1
        found = look(*args)  # type: ignore[arg-type]  # passed on
        if looks == 1:
            write_version(backends / "aaa-cpu-engine", "2")
            (backends / "aaa-cpu-engine" / "metadata.json").write_text('{"alias": "nick"}')
        return found

    monkeypatch.setattr(_deleting, "_deletion_of", looking)
    deleted = await installer.delete("nick")
    assert deleted.concrete == "aaa-cpu-engine"
    assert looks == 3
    assert live(backends) == ["cpu-engine", "engine"]


async def test_a_wait_for_the_lock_can_be_given_up(backends: Path) -> None:
    lock = MemoryLock()
    installer = installer_of(backends, *ENTRIES, source=Scripted(), lock=lock)
    await installer.install("other")
    async with lock.hold("other", shared=True):
        with trio.move_on_after(0.05) as scope:
            await installer.delete("other")
        assert scope.cancelled_caught
    assert live(backends) == ["other"]
