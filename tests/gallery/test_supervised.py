"""Releases under backends that run from them: real processes, real files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

import trio_sup
from tests.conftest import descriptors, next_of
from tests.gallery.http_server import Page, http_server
from tests.gallery.releases import write_release
from trio_sup import (
    BackendSpec,
    Galleries,
    Gallery,
    InstallPhase,
    InstallProgress,
    InvalidValue,
    LaunchFailed,
    NoGalleries,
    Phase,
    ProcessKey,
    StopFailed,
    UnknownRelease,
    events,
    hookimpl,
)
from trio_sup.defaults._file_lock import FileLock
from trio_sup.engine import _ending
from trio_sup.gallery._store import Store
from trio_sup.strategies import Fetch, Fetched, GallerySource
from trio_sup.testing import FakeBackend, FakeSystem

pytestmark = pytest.mark.usefixtures("nothing_survives")


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


def galleries(backends: Path, **options: Any) -> Galleries:
    return Galleries(**{"backends_dir": backends, "index": (), "capability": "default", **options})


def spec(release: str, **options: Any) -> BackendSpec:
    return BackendSpec(**{"name": release, "release": release, "grace": 5, "stop_policy": "terminate", **options})


def own_directory(backends: Path) -> list[str]:
    """What is left of installations: containers, trash, downloads."""
    ours = backends / ".trio-sup"
    return sorted(
        str(path.relative_to(ours)) for name in ("work", "trash", "downloads") for path in (ours / name).glob("*")
    )


async def test_an_installed_backend_is_started_by_its_name(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            release = await sup.install(str(source))
            assert (release.name, release.runnable) == ("one", True)
            backend = await sup.start("one")
            assert backend.key == ProcessKey("one", 0)
            assert backend.pid is not None
            assert os.readlink(f"/proc/{backend.pid}/cwd") == str(backends / "one")
            assert str(sup.logs("one#0")[0]) == f"version 1 in {backends / 'one'}"
            assert [each.name for each in sup.installed()] == ["one"]


async def test_a_lease_on_the_name_of_a_release_starts_it(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            async with sup.use("one") as backend:
                assert (backend.key, backend.phase) == (ProcessKey("one", 0), Phase.READY)


async def test_any_name_of_a_release_starts_it(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "cpu-engine")), alias="engine")
            backend = await sup.start(spec("engine"))
            assert os.readlink(f"/proc/{backend.pid}/cwd") == str(backends / "cpu-engine")


async def test_all_who_run_from_a_release_share_one_descriptor(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            for replica in range(3):
                await sup.start(spec("one"), replica=replica)
            assert len([each for each in descriptors() if each.endswith(str(backends / "one"))]) == 1
            await sup.stop("one")
            assert not [each for each in descriptors() if str(backends / "one") in each]


async def test_what_runs_keeps_its_files_until_it_ends(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "1" / "one", "1")))
            backend = await sup.start(spec("one"))
            await sup.install(str(write_release(tmp_path / "2" / "one", "2")), force=True)
            assert (backends / "one" / "version").read_text() == "2"
            assert Path(f"/proc/{backend.pid}/cwd/version").read_text() == "1"
            again = await sup.start(spec("one"))
            assert again.pid != backend.pid
            assert Path(f"/proc/{again.pid}/cwd/version").read_text() == "2"
            while own_directory(backends):  # it is removed in a thread
                await trio.sleep(0.01)


async def test_a_release_that_is_not_there_is_an_error_that_says_what_is(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            with pytest.raises(UnknownRelease, match="did you mean 'one'"):
                await sup.start(spec("onee", restart_policy="always"))
            with pytest.raises(trio_sup.UnknownBackend, match="twoo"):
                await sup.start("twoo")
            assert sup.backends == ()


async def test_releases_that_one_may_only_read_are_run_all_the_same(
    backends: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_release(backends / "one")
    (backends / ".trio-sup").symlink_to(".trio-sup")  # root could use it in spite of any mode
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            assert "the releases cannot be brought in order: " in caplog.text
            stream = sup.events()
            backend = await sup.start("one")
            failed = await next_of(stream, events.PluginFailed)
            assert (failed.what[:11], failed.instead) == ("it failed: ", "one in a directory of this user takes over")
            assert backend.phase is Phase.READY


async def test_a_release_that_the_system_refuses_is_no_internal_error(
    backends: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store, directory: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    monkeypatch.setattr(Store, "hold", refuse)
    directory = write_release(backends / "one")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            with pytest.raises(LaunchFailed, match=f"Permission denied: {directory}"):
                await sup.start("one")


async def test_without_galleries_there_are_no_releases() -> None:
    async with trio_sup.open_supervisor() as sup:
        with pytest.raises(NoGalleries):
            await sup.start(spec("one"))
        with pytest.raises(NoGalleries):
            sup.installed()
        with pytest.raises(NoGalleries):
            await sup.install("one")


def test_a_command_or_a_release_is_needed() -> None:
    with pytest.raises(InvalidValue, match="command: give the program"):
        BackendSpec(name="neither")
    with pytest.raises(InvalidValue, match="release: a backend's name"):
        BackendSpec(name="bad", release="../etc")


async def test_a_start_that_waits_for_an_installation_says_who_holds_it_up(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            stream = sup.events()
            lock = FileLock(backends / ".trio-sup" / "locks")
            async with trio.open_nursery() as nursery, lock.hold("one", shared=False):
                nursery.start_soon(sup.start, "one")
                while True:
                    waiting = await next_of(stream, events.BackendWaiting)
                    if "held by" in waiting.waits_for:
                        break
                assert waiting.waits_for.startswith("the install lock of one, held by ")
                assert f"(pid {os.getpid()})" in waiting.waits_for
                assert sup.get_address("one#0") is None
            assert sup.get_address("one#0") is not None


# ---- installed for a start


def write_index(backends: Path, *entries: Mapping[str, object]) -> Gallery:
    backends.mkdir(exist_ok=True)
    path = backends / "index.yaml"
    path.write_text(json.dumps(list(entries)))
    return Gallery(name="own", url=path.as_uri())


async def test_a_missing_release_is_installed_for_its_start_once_for_all(tmp_path: Path, backends: Path) -> None:
    gallery = write_index(
        backends,
        {"name": "engine", "capabilities": {"default": "cpu-engine"}},
        {"name": "cpu-engine", "uri": str(write_release(tmp_path / "engine"))},
    )
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends, index=(gallery,), auto_install=True)) as sup:
            stream = sup.events()
            async with trio.open_nursery() as nursery:
                for replica in range(3):
                    nursery.start_soon(partial(sup.start, spec("engine"), replica=replica))
            assert len(sup.backends) == 3
            installed = await next_of(stream, events.ReleaseInstalled)
            assert installed.release.concrete == "cpu-engine"
            sup.shutdown_reason = "done"
        assert not [event async for event in stream if isinstance(event, events.ReleaseInstalled)]


async def test_a_start_whose_release_no_gallery_has_says_so(backends: Path) -> None:
    gallery = write_index(backends, {"name": "other", "uri": "/nowhere"})
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends, index=(gallery,), auto_install=True)) as sup:
            with pytest.raises(trio_sup.UnknownEntry, match="engine"):
                await sup.start("engine")
            assert sup.backends == ()


async def test_a_stop_during_the_installation_ends_it(backends: Path) -> None:
    source = Hanging()
    gallery = write_index(backends, {"name": "one", "uri": "hangs://one"})
    with trio.fail_after(30):
        async with (
            trio_sup.open_supervisor(
                galleries=galleries(backends, index=(gallery,), auto_install=True), plugins=[source]
            ) as sup,
            trio.open_nursery() as nursery,
        ):

            async def start() -> None:
                with pytest.raises(trio_sup.StoppedDuringStartup):
                    await sup.start("one")

            nursery.start_soon(start)
            await source.fetching.wait()
            (backend,) = sup.backends
            assert backend.phase is Phase.WAITING
            assert backend.waits_for is not None
            assert "installation" in backend.waits_for
            await sup.stop("one")
            source.let_go.set()  # only now: the stop did not wait for it
    assert own_directory(backends) == []


# ---- upgrades


async def test_an_upgrade_restarts_what_runs_from_the_new_release(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source), alias="engine")
            before = [await sup.start(spec("one"), replica=replica) for replica in range(2)]
            by_alias = await sup.start(spec("engine"))
            (source / "version").write_text("2")
            upgraded = await sup.upgrade("engine", force=True)
            assert upgraded is not None
            keys = {*(each.key for each in before), by_alias.key}
            assert (set(upgraded.restarted), upgraded.stopped, dict(upgraded.failed)) == (keys, (), {})
            for backend in sup.backends:
                assert backend.phase is Phase.READY
                assert Path(f"/proc/{backend.pid}/cwd/version").read_text() == "2"
            assert {each.pid for each in sup.backends}.isdisjoint({each.pid for each in before})
            while own_directory(backends):
                await trio.sleep(0.01)
            assert sup.exit_reports("one#0")[-1].asked_by == "upgrade of engine"


async def test_an_upgrade_may_leave_what_ran_stopped(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            await sup.start(spec("one"))
            upgraded = await sup.upgrade("one", then="stop", force=True)
            assert upgraded is not None
            assert upgraded.stopped == (ProcessKey("one", 0),)
            assert sup.backends == ()


async def test_a_rolling_upgrade_takes_one_at_a_time_out_of_service(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source))
            for replica in range(3):
                await sup.start(spec("one"), replica=replica)
            (source / "version").write_text("2")
            stream = sup.events()
            upgraded = await sup.upgrade("one", then="rolling", force=True)
            assert upgraded is not None
            assert len(upgraded.restarted) == 3
        away: set[ProcessKey] = set()
        async for event in stream:
            if isinstance(event, events.BackendStopping) and event.detail == "upgrade of one":
                away.add(event.key)
                assert len(away) == 1
            if isinstance(event, events.BackendReady):
                away.discard(event.key)


async def test_a_rolling_upgrade_ends_at_the_first_that_does_not_come_back(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source))
            before = [await sup.start(spec("one"), replica=replica) for replica in range(3)]
            (source / "run.sh").write_text("#!/bin/sh\nexit 7\n")
            upgraded = await sup.upgrade("one", then="rolling", force=True)
            assert upgraded is not None
            assert list(upgraded.failed) == [before[0].key]
            assert isinstance(upgraded.failed[before[0].key], trio_sup.DiedDuringStartup)
            assert [each.pid for each in sup.backends] == [each.pid for each in before[1:]]


async def test_a_rolling_upgrade_is_finished_though_its_caller_leaves(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup, trio.open_nursery() as nursery:
            await sup.install(str(source))
            for replica in range(3):
                await sup.start(spec("one"), replica=replica)
            (source / "version").write_text("2")
            stream = sup.events()
            caller = trio.CancelScope()

            async def upgrade() -> None:
                with caller:
                    await sup.upgrade("one", then="rolling", force=True)

            nursery.start_soon(upgrade)
            await next_of(stream, events.BackendStopping)
            caller.cancel()
            async for event in stream:
                assert not isinstance(event, events.InstallEnded)
                if isinstance(event, events.InstallProgressed) and event.progress.phase is InstallPhase.DONE:
                    break
            for backend in sup.backends:
                assert backend.phase is Phase.READY
                assert Path(f"/proc/{backend.pid}/cwd/version").read_text() == "2"


async def test_the_end_of_the_supervisor_ends_a_rolling_upgrade(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source))
            for replica in range(2):
                await sup.start(spec("one"), replica=replica)
            (source / "run.sh").write_text("#!/bin/sh\nexec sleep 1000\n")
            stream = sup.events()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(sup.upgrade, "one", then="rolling", force=True))
                await next_of(stream, events.BackendStarting)
                nursery.cancel_scope.cancel()
    assert own_directory(backends) == []


@pytest.mark.parametrize("phase", [InstallPhase.STARTING, InstallPhase.DONE])
async def test_an_upgrade_that_is_in_place_is_finished_whoever_fails_to_hear_of_it(
    tmp_path: Path, backends: Path, phase: InstallPhase
) -> None:
    source = write_release(tmp_path / "one", "1")

    def told(progress: InstallProgress) -> None:
        if progress.phase is phase:
            raise RuntimeError("the terminal is gone")

    with trio.fail_after(40):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source))
            backend = await sup.start(spec("one"))
            upgraded = await sup.upgrade("one", then="rolling", force=True, on_progress=told)
            assert upgraded is not None
            assert upgraded.restarted == (backend.key,)


async def test_an_upgrade_that_cannot_be_fetched_stops_nothing(tmp_path: Path, backends: Path) -> None:
    source = write_release(tmp_path / "one")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(source))
            backend = await sup.start(spec("one"))
            (source / "run.sh").unlink()
            with pytest.raises(trio_sup.InstallFailed):
                await sup.upgrade("one", force=True)
            (still,) = sup.backends
            assert (still.pid, still.phase) == (backend.pid, Phase.READY)
            assert own_directory(backends) == []


async def test_whoever_asks_for_what_is_newer_is_not_told_what_was_new_an_hour_ago(
    tmp_path: Path, backends: Path
) -> None:
    entry = {"name": "one", "uri": str(write_release(tmp_path / "one")), "version": "1"}
    async with http_server() as server:
        server.pages["/index.yaml"] = Page(body=json.dumps([entry]).encode())
        gallery = Gallery(name="own", url=f"{server.url}/index.yaml")
        with trio.fail_after(30):
            async with trio_sup.open_supervisor(galleries=galleries(backends, index=(gallery,))) as sup:
                await sup.install("one")
                assert await sup.upgrades() == ()
                server.pages["/index.yaml"] = Page(body=json.dumps([{**entry, "version": "2"}]).encode())
                assert [each.why for each in await sup.upgrades()] == ["version 2 instead of 1"]
                server.pages.clear()  # what was read last still serves
                upgraded = await sup.upgrade("one")
                assert upgraded is not None
                assert upgraded.release.metadata.version == "2"


async def test_nothing_newer_is_no_upgrade(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            backend = await sup.start(spec("one"))
            assert await sup.upgrade("one") is None
            assert [each.pid for each in sup.backends] == [backend.pid]
            with pytest.raises(InvalidValue, match="then: expected one of"):
                await sup.upgrade("one", then="later")  # type: ignore[arg-type]
            with pytest.raises(UnknownRelease):
                await sup.upgrade("two")


async def test_upgrades_at_the_same_time_replace_and_restart_once(tmp_path: Path, backends: Path) -> None:
    entry = {"name": "one", "uri": str(write_release(tmp_path / "one"))}
    gallery = write_index(backends, {**entry, "version": "1"})
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends, index=(gallery,))) as sup:
            await sup.install("one")
            backend = await sup.start(spec("one"))
            write_index(backends, {**entry, "version": "2"})
            outcomes: list[trio_sup.Upgraded | None] = []

            async def upgrade() -> None:
                outcomes.append(await sup.upgrade("one"))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(upgrade)
            assert len([each for each in outcomes if each is not None]) == 1
            assert [each.generation for each in sup.backends] == [backend.generation + 1]


# ---- deletions


async def test_a_deletion_stops_what_runs_by_whichever_name(tmp_path: Path, backends: Path) -> None:
    gallery = write_index(
        backends,
        {"name": "engine", "capabilities": {"default": "cpu-engine"}},
        {"name": "cpu-engine", "alias": "motor", "uri": str(write_release(tmp_path / "engine"))},
    )
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends, index=(gallery,))) as sup:
            await sup.install("engine")
            for name in ("engine", "cpu-engine", "motor"):
                await sup.start(spec(name))
            by_path = BackendSpec(name="by-path", command=[str(backends / "cpu-engine" / "run.sh")], grace=5)
            await sup.start(by_path)
            deleted = await sup.delete("motor")
            assert {key.model for key in deleted.stopped} == {"engine", "cpu-engine", "motor", "by-path"}
            assert sup.backends == ()
            assert sup.installed() == ()
            assert own_directory(backends) == []
            with pytest.raises(UnknownRelease):
                await sup.delete("engine")


async def test_what_was_stopped_because_it_needed_them_is_named_too(tmp_path: Path, backends: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(write_release(tmp_path / "one")))
            await sup.install(str(write_release(tmp_path / "two")))
            changes: tuple[Callable[[], Awaitable[trio_sup.Upgraded | trio_sup.Deleted | None]], ...] = (
                partial(sup.upgrade, "one", then="stop", force=True),
                partial(sup.delete, "one"),
            )
            for change in changes:
                await sup.start(spec("one"))
                await sup.start(spec("two", needs=["one"]))
                changed = await change()
                assert changed is not None
                assert list(map(str, changed.stopped)) == ["one#0", "two#0"]
                assert sup.backends == ()


@pytest.mark.parametrize("change", ["delete", "upgrade", "upgrade and leave stopped"])
async def test_what_cannot_be_stopped_keeps_its_files(
    tmp_path: Path, backends: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(_ending, "KILL_TIMEOUT", 0.1)
    system = FakeSystem([FakeBackend(survives_kill=True, stops_after=1e9), FakeBackend()])
    source = write_release(tmp_path / "one", "1")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends), system=system) as sup:
            await sup.install(str(source))
            stubborn = await sup.start(spec("one", grace=0.1))
            await sup.start(spec("one"), replica=1)
            (source / "version").write_text("2")
            changes: dict[str, Callable[[], Awaitable[object]]] = {
                "delete": partial(sup.delete, "one"),
                "upgrade": partial(sup.upgrade, "one", force=True),
                "upgrade and leave stopped": partial(sup.upgrade, "one", then="stop", force=True),
            }
            with pytest.raises(StopFailed, match=str(stubborn.pid)):
                await changes[change]()
            assert (backends / "one" / "version").read_text() == "1"
            assert [each.name for each in sup.installed()] == ["one"]
            assert sup.backends[0].phase is Phase.STOP_FAILED
            if change == "upgrade":  # the other one was to come back, and does
                again = await sup.start(spec("one"), replica=1)
                assert again.phase is Phase.READY
            system.running()[0].release()
    assert own_directory(backends) == []


# ---- plugins and cancellation


class Hanging:
    """A plugin whose source never finishes, and shields itself."""

    def __init__(self) -> None:
        self.fetching = trio.Event()
        self.let_go = trio.Event()

    @hookimpl
    def trio_sup_gallery_sources(self) -> Mapping[str, Any]:
        return {"hangs": lambda: self}

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        return None

    async def digest(self, uri: str) -> str | None:
        return None

    async def fetch(self, fetch: Fetch) -> Fetched:
        self.fetching.set()
        (fetch.into / "half").write_text("done")
        with trio.move_on_after(10, shield=True):
            await self.let_go.wait()
        return Fetched(uri=fetch.uri)


def test_the_hanging_plugin_is_a_source() -> None:
    source: GallerySource = Hanging()
    assert source.proof("hangs://one", sha256=None, verification={}) is None


async def test_a_source_that_shields_does_not_hold_up_the_one_who_has_left(backends: Path) -> None:
    source = Hanging()
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends), plugins=[source]) as sup:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: sup.install("hangs://one", name="one"))
                await source.fetching.wait()
                nursery.cancel_scope.cancel()
            assert sup.installed() == ()
            source.let_go.set()
    assert own_directory(backends) == []


async def test_a_cancelled_install_tells_so_and_leaves_nothing(backends: Path) -> None:
    source = Waiting()
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(galleries=galleries(backends), plugins=[source]) as sup:
            stream = sup.events()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: sup.install("waits://one", name="one"))
                await source.fetching.wait()
                nursery.cancel_scope.cancel()
            ended = await next_of(stream, events.InstallEnded)
            assert (ended.what, ended.why) == ("waits://one", "it was cancelled")
    assert own_directory(backends) == []


async def test_the_end_of_the_supervisor_ends_an_installation(backends: Path) -> None:
    async def install(sup: trio_sup.Supervisor) -> None:
        with pytest.raises(trio_sup.SupervisorClosed):
            await sup.install("waits://one", name="one")

    source = Waiting()
    opened = trio_sup.open_supervisor(galleries=galleries(backends), plugins=[source])
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, opened as sup:
            nursery.start_soon(install, sup)
            await source.fetching.wait()
    assert own_directory(backends) == []


class Waiting(Hanging):
    """One that waits for ever, and heeds its cancellation."""

    @hookimpl
    def trio_sup_gallery_sources(self) -> Mapping[str, Any]:
        return {"waits": lambda: self}

    async def fetch(self, fetch: Fetch) -> Fetched:
        self.fetching.set()
        await trio.sleep_forever()
        raise AssertionError


async def test_options_of_sources_are_checked_when_the_supervisor_opens(backends: Path) -> None:
    for sources, said in (
        ({"https": {"stall_timeout": "soon"}}, "stall_timeout"),
        ({"gopher": {}}, "no such source; known are"),
    ):
        with pytest.raises(trio_sup.TrioSupError, match=said):
            async with trio_sup.open_supervisor(galleries=galleries(backends, sources=sources)):
                pass
