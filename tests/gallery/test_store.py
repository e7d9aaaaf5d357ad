"""Releases on disk: who holds them, what becomes of what was replaced, and how order is brought back."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conftest import descriptors
from tests.gallery.installs import leftovers, live, version_of, write_version
from tests.gallery.test_exchange import cut_short
from trio_sup.gallery._flocks import holders_of, open_directory
from trio_sup.gallery._removing import empty_directory
from trio_sup.gallery._repair import DAY, Repair
from trio_sup.gallery._store import Store

HOLDER = """
import sys
from pathlib import Path
from trio_sup.gallery._store import Store
with Store(Path(sys.argv[1]).parent).hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "backends")
    store.make_directories()
    return store


def test_what_is_ours_nobody_else_may_enter(tmp_path: Path) -> None:
    (tmp_path / "backends" / ".trio-sup").mkdir(parents=True, mode=0o755)
    store = Store(tmp_path / "backends")
    store.make_directories()
    for directory in (
        store.work_dir.parent,
        store.work_dir,
        store.downloads_dir,
        store.locks_dir,
        store.trash.directory,
    ):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_it_stays_where_it_is_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("backends"))
    monkeypatch.chdir("/")
    assert store.backends_dir == tmp_path / "backends"


# ---- holding


def test_a_hold_is_of_the_directory_wherever_it_goes(store: Store) -> None:
    one = write_version(store.path_of("one"), "1")
    before = descriptors()
    hold = store.hold(one)
    assert hold.identity == (one.stat().st_dev, one.stat().st_ino)
    assert store.is_held(one)
    place = store.trash.take(one)
    assert store.is_held(place)
    hold.close()
    hold.close()
    assert not store.is_held(place)
    assert descriptors() == before


def test_many_hold_the_same(store: Store) -> None:
    one = write_version(store.path_of("one"), "1")
    with store.hold(one), store.hold(one):
        assert store.is_held(one)
    assert not store.is_held(one)


def test_what_is_replaced_while_it_is_being_held_is_held_in_its_new_form(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening and the lock it goes to the trash, where a sweep has it already."""
    one = write_version(store.path_of("one"), "1")
    lock = fcntl.flock
    swept: list[int] = []

    def first_replaced(opened: int, operation: int) -> None:
        if not swept:
            swept.append(open_directory(store.trash.take(one)))
            lock(swept[0], fcntl.LOCK_EX)
            write_version(one, "2")
        lock(opened, operation)

    monkeypatch.setattr(fcntl, "flock", first_replaced)
    with store.hold(one) as hold:
        assert hold.identity[1] == one.stat().st_ino
    os.close(swept[0])


def test_what_somebody_has_for_himself_cannot_be_held(store: Store) -> None:
    opened = open_directory(write_version(store.path_of("one"), "1"))
    fcntl.flock(opened, fcntl.LOCK_EX)
    before = descriptors()
    with pytest.raises(BlockingIOError, match="is being deleted"):
        store.hold(store.path_of("one"))
    assert descriptors() == before
    os.close(opened)


def test_what_is_not_there_cannot_be_held(store: Store, tmp_path: Path) -> None:
    before = descriptors()
    store.path_of("link").symlink_to(tmp_path)
    for name in ("missing", "link"):
        with pytest.raises(OSError, match=name):
            store.hold(store.path_of(name))
    assert descriptors() == before


def test_a_holder_in_another_process_is_named(store: Store, tmp_path: Path) -> None:
    one = write_version(store.path_of("one"), "1")
    script = tmp_path / "some-supervisor.py"
    script.write_text(HOLDER)
    assert store.holders(one) == ()
    with subprocess.Popen(
        [sys.executable, str(script), str(one)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with store.hold(one):
            pids = sorted([process.pid, os.getpid()])
            assert [holder.pid for holder in store.holders(one)] == pids
        assert [str(holder) for holder in store.holders(one)] == [f"some-supervisor (pid {process.pid})"]
        place = store.trash.take(one)
        assert [holder.pid for holder in store.holders(place)] == [process.pid]
        assert process.stdin is not None
        process.stdin.close()
    assert store.holders(place) == ()


def test_what_nobody_has_has_no_holders(store: Store) -> None:
    opened = open_directory(store.backends_dir)
    try:
        assert holders_of(opened) == ()
    finally:
        os.close(opened)


# ---- the trash


async def test_what_is_held_stays_in_the_trash_until_it_is_not(store: Store) -> None:
    held, free = (write_version(store.path_of(name), "1") for name in ("held", "free"))
    with trio.fail_after(10), store.hold(held):
        places = store.trash.take(held), store.trash.take(free)
        assert await store.sweep_trash() == ()
        assert [path.exists() for path in places] == [True, False]
        assert version_of(places[0]) == "1"
    assert await store.sweep_trash() == ()
    assert leftovers(store.backends_dir) == []


async def test_links_are_removed_and_not_followed(store: Store, tmp_path: Path) -> None:
    victim = write_version(tmp_path / "victim", "1")
    one = write_version(store.path_of("one"), "1")
    (one / "to-directory").symlink_to(victim)
    (one / "lib" / "to-file").symlink_to(victim / "data")
    (store.trash.directory / "itself").symlink_to(victim)
    store.trash.take(one)
    with trio.fail_after(10):
        assert await store.sweep_trash() == ()
    assert version_of(victim) == "1"
    assert leftovers(store.backends_dir) == []


async def test_files_pipes_and_what_may_not_be_written_to_go_as_well(store: Store) -> None:
    one = write_version(store.path_of("one"), "1")
    os.mkfifo(one / "pipe")
    (store.trash.directory / "file").touch()
    for directory in (one / "lib" / "a", one / "lib", one):
        directory.chmod(0o000)
    os.rename(one, store.trash.directory / "one")
    with trio.fail_after(10):
        assert await store.sweep_trash() == ()
    assert leftovers(store.backends_dir) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_owner_of_read_only_directories_need_not_be_root(tmp_path: Path) -> None:
    """The tests may run as root, to whom nothing is read-only."""
    # Not below tmp_path, which nobody else may enter.
    place = Path(tempfile.gettempdir(), f"{tmp_path.name}-{os.getpid()}")
    program = """
import os, sys
from pathlib import Path
os.umask(0o022)
top = Path(sys.argv[1])
for directory in (top / "a/b/c", top / "a/closed/d"):
    directory.mkdir(parents=True)
    (directory / "file").touch()
for directory in ("a/b/c", "a/b", "a/closed/d", "a/closed", "a", "."):
    (top / directory).chmod(0o000 if "closed" in directory else 0o555)
from trio_sup.gallery._removing import empty_directory
opened = os.open(top, os.O_RDONLY)
print(empty_directory(opened, checkpoint=lambda: None), os.listdir(top))
top.rmdir()
"""
    # The interpreter and this project may lie where only root can read: they are loaded before it becomes another.
    become = f"import trio_sup.gallery._removing, os, pathlib; os.setgid(65534); os.setuid(65534)\n{program}"
    done = subprocess.run([sys.executable, "-c", become, str(place)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("() []\n", "")
    assert not place.exists()


def test_no_depth_is_too_great(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    inner = os.dup(top)
    for number in range(3000):  # far beyond what a path may have
        os.mkdir("d", dir_fd=inner)
        if number % 500 == 0:
            os.mkdir(f".{number}", dir_fd=inner)
        deeper = os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.close(inner)
    before = descriptors()
    assert empty_directory(top, checkpoint=lambda: None) == ()
    assert descriptors() == before
    os.close(top)
    assert list(tmp_path.iterdir()) == []


async def test_a_sweep_that_is_cancelled_is_gone_on_with_later(store: Store) -> None:
    for number in range(20):
        write_version(store.path_of("one") / str(number), "1")
    store.trash.take(store.path_of("one"))
    with trio.fail_after(10):
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.sweep_trash()
        assert scope.cancelled_caught
        assert await store.sweep_trash() == ()
    assert leftovers(store.backends_dir) == []


async def test_sweeps_at_the_same_time_do_not_disturb_one_another(store: Store) -> None:
    for number in range(30):
        write_version(store.trash.directory / str(number) / "deep", "1")
    other = Store(store.backends_dir)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            problems: list[str] = []
            for each in (store, other, store, other):

                async def sweep(each: Store = each) -> None:
                    problems.extend(await each.sweep_trash())

                nursery.start_soon(sweep)
        assert problems == []
        await store.sweep_trash()
    assert leftovers(store.backends_dir) == []


# ---- downloads


async def test_a_download_is_kept_and_given_to_one_at_a_time(store: Store) -> None:
    waited: list[str] = []
    order: list[str] = []

    async def second() -> None:
        async with store.scratch("https://x/y", waiting=waited.append) as scratch:
            order.append("second")
            assert (scratch.path / "half").read_text() == "half"
            scratch.discard()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, store.scratch("https://x/y", waiting=waited.append) as scratch:
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            assert f"(pid {os.getpid()})" in waited[0]
            (scratch.path / "half").write_text("half")
            order.append("first")
        assert order == ["first", "second"]
        async with store.scratch("https://x/y", waiting=waited.append) as scratch:
            assert list(scratch.path.iterdir()) == []  # it was thrown away, and this is another one
            async with store.scratch("https://x/other", waiting=waited.append) as other:
                assert other.path != scratch.path
    await store.sweep_trash()
    assert leftovers(store.backends_dir) == []


async def test_a_download_is_not_thrown_away_under_the_one_who_has_it(store: Store) -> None:
    with trio.fail_after(10):
        async with store.scratch("test://x", waiting=lambda what: None) as scratch:
            (scratch.path / "half").touch()
            store.discard_scratch("test://x")
            assert (scratch.path / "half").exists()
        store.discard_scratch("test://x")
        assert not scratch.path.exists()
    store.discard_scratch("test://never")


async def test_a_wait_for_a_download_that_is_cancelled_leaves_nothing(store: Store) -> None:
    with trio.fail_after(10):
        async with store.scratch("test://x", waiting=lambda what: None):
            before = descriptors()
            with trio.move_on_after(0.05) as scope:
                async with store.scratch("test://x", waiting=lambda what: None):
                    pass
            assert scope.cancelled_caught
            assert descriptors() == before


# ---- repairs


async def repaired(store: Store, *, later: float = 0.0) -> list[str]:
    repair = Repair(
        backends_dir=store.backends_dir,
        work=store.work_dir,
        downloads=store.downloads_dir,
        trash=store.trash,
        exchange=store.exchange,
        now=lambda: time.time() + later,
    )
    with trio.fail_after(20):
        return list(await repair.run())


async def test_where_all_is_in_order_nothing_is_done(store: Store, tmp_path: Path) -> None:
    write_version(store.path_of("one"), "1")
    assert await store.repair() == ()
    assert version_of(store.path_of("one")) == "1"
    assert await Store(tmp_path / "nothing").repair() == ()
    assert not (tmp_path / "nothing").exists()


async def test_what_an_installation_left_is_thrown_away(store: Store) -> None:
    box = store.make_box("my-engine")
    write_version(box.fresh("release"), "1")
    box.let_go()
    (said,) = await repaired(store)
    assert said.startswith("my-engine: what was left of an installation")
    assert leftovers(store.backends_dir) == []


async def test_an_installation_under_way_is_left_alone(store: Store) -> None:
    box = store.make_box("one")
    write_version(box.fresh("release"), "1")
    assert await repaired(store) == []
    assert version_of(box.path / "release") == "1"
    box.close()


async def test_a_replaced_release_that_is_in_use_survives_the_repair(store: Store) -> None:
    """A crash between the exchange and the move to the trash."""
    old = write_version(store.path_of("one"), "1")
    with store.hold(old):
        box = store.make_box("one")
        write_version(box.fresh("release"), "2")
        box.put("release", old)
        box.let_go()
        await repaired(store)
        (place,) = store.trash.directory.iterdir()
        assert version_of(place) == "1"
        assert list(store.work_dir.iterdir()) == []
    await repaired(store)
    assert leftovers(store.backends_dir) == []
    assert version_of(store.path_of("one")) == "2"


async def test_a_swap_that_was_cut_short_is_finished(store: Store) -> None:
    box = store.make_box("one")
    box.let_go()
    cut_short(box.path)
    assert await repaired(store) == ["one: its replacement, which was cut short, was finished"]
    assert version_of(store.path_of("one")) == "2"
    assert leftovers(store.backends_dir) == []


async def test_what_cannot_be_repaired_is_said_and_kept(store: Store) -> None:
    box = store.make_box("one")
    box.let_go()
    cut_short(box.path)
    (box.path / "swap.json").write_text("?")
    (said,) = await repaired(store)
    assert "could not be brought to order" in said
    assert version_of(box.path / "replaced") == "1"


async def test_repairs_at_the_same_time_do_each_thing_once(store: Store) -> None:
    for number in range(20):
        box = store.make_box(f"b{number}")
        box.let_go()
        cut_short(box.path)
        (box.path / "swap.json").write_text(f'{{"new": "release", "live": "b{number}"}}')
    said: list[str] = []

    async def repair() -> None:
        said.extend(await repaired(Store(store.backends_dir)))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(repair)
    assert len(said) == len(set(said)) == 20
    assert {version_of(store.path_of(f"b{number}")) for number in range(20)} == {"2"}
    assert leftovers(store.backends_dir) == []


# ---- what LocalAI leaves


async def test_a_backup_without_its_release_comes_back(store: Store) -> None:
    write_version(store.path_of("one.install-backup"), "1")
    write_version(store.path_of("one.install-tmp"), "2")
    (said,) = await repaired(store)
    assert said.startswith("one: a replacement by another program")
    assert version_of(store.path_of("one")) == "1"
    assert live(store.backends_dir) == ["one", "one.install-tmp"]  # it may be at work there


async def test_another_program_between_its_two_renames_is_not_disturbed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(store.path_of("one.install-backup"), "1")
    write_version(store.path_of("one.install-tmp"), "2")

    async def meanwhile(seconds: float) -> None:
        store.path_of("one.install-tmp").rename(store.path_of("one"))

    monkeypatch.setattr(trio, "sleep", meanwhile)
    assert await repaired(store) == []
    assert version_of(store.path_of("one")) == "2"


@pytest.mark.parametrize("there", ["file", "no run.sh"])
async def test_a_backup_that_cannot_be_meant_stays_where_it_is(store: Store, there: str) -> None:
    backup = store.path_of("one.install-backup")
    if there == "file":
        store.path_of("one").touch()
        write_version(backup, "1")
    else:
        backup.mkdir()
    assert await repaired(store) == []
    assert backup.is_dir()


async def test_what_was_left_long_ago_goes_and_what_is_the_users_own_does_not(store: Store) -> None:
    write_version(store.path_of("one"), "1")
    mine = ("one.install-tmp", "one.install-backup")
    yours = ("one.backup", "one.upgrade-tmp", "two.backup")
    for name in (*mine, *yours):
        write_version(store.path_of(name), "1")
    assert await repaired(store, later=DAY / 2) == []
    said = await repaired(store, later=DAY + 60)
    assert len(said) == 2
    assert all("long ago" in each for each in said)
    assert live(store.backends_dir) == sorted(("one", *yours))


async def test_old_downloads_are_given_up_unless_somebody_has_them(store: Store) -> None:
    with trio.fail_after(20):
        async with store.scratch("test://old", waiting=lambda what: None) as scratch:
            (scratch.path / "half").touch()
        async with store.scratch("test://busy", waiting=lambda what: None) as busy:
            (busy.path / "half").touch()
            assert await repaired(store, later=6 * DAY) == []
            assert len(await repaired(store, later=8 * DAY)) == 1
            assert [path.name for path in store.downloads_dir.iterdir()] == [busy.path.name]
