"""P7, installs are all or nothing, across crashes and across processes; what runs keeps its files.

The steps of an installation are tested in `tests/gallery/`, each of them with a process that is killed there.
"""

from __future__ import annotations

import itertools
import random
import shlex
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import child_command
from tests.gallery.http_server import Page, http_server
from tests.gallery.installs import leftovers, live, version_of, write_archive, write_version
from tests.gallery.tars import RUN, member, tar
from tests.gallery.test_two_processes import child
from tests.gallery.test_unpacking import UNSAFE
from trio_sup import BackendSpec, Galleries, Phase, events
from trio_sup.guard import _proc

from .backends import alive, neighbour

pytestmark = pytest.mark.usefixtures("nothing_survives")

FILES = {
    "run.sh": f'#!/bin/sh\nexec {shlex.join(child_command("raw_h2"))} "$@"\n',
    "lib/a/b.txt": "b",
    "data": "x" * 200_000,
}


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """Two versions of a release that serves."""
    one, two = (
        write_archive(tmp_path / f"{version}.tar.gz", write_version(tmp_path / version, version, FILES))
        for version in "12"
    )
    return one, two


def galleries(backends: Path, **options: Any) -> Galleries:
    return Galleries(**{"backends_dir": backends, "index": (), "capability": "default", **options})


def spec(**options: Any) -> BackendSpec:
    return BackendSpec(**{"name": "engine", "release": "engine", "grace": 5, "stop_policy": "kill", **options})


def seen_by(backend: trio_sup.Backend) -> str:
    """The version of the files that a running backend has, whole; wherever they are by now."""
    return version_of(Path(f"/proc/{backend.pid}/cwd/."), FILES)


def outside(folder: Path, backends: Path) -> Mapping[str, bytes | None]:
    """Everything in *folder* but the releases."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.is_relative_to(backends)
    }


async def gone(pids: list[int]) -> None:
    with trio.fail_after(10):
        while alive(pids):
            await trio.sleep(0.01)


@pytest.mark.parametrize("times", [4, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_supervisor_that_is_killed_anywhere_leaves_one_whole_release_and_the_next_one_runs_it(
    backends: Path, archives: tuple[Path, Path], times: int
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with trio.fail_after(30 * times):
        for turn in range(times):
            delay = chance.uniform(0, 0.4)
            with child("installs_while_it_runs", str(backends), *map(str, archives)) as process:
                await trio.sleep(delay)  # any instant will do
                started = [each.pid for each in _proc.with_descendants([_of(process.pid)], _proc.scan())]
                process.send_signal(signal.SIGKILL)
                process.wait()
            await gone(started)
            assert version_of(backends / "engine", FILES) in "12", f"turn {turn}, {delay:.4f} s, seed {seed}"
            async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
                assert [release.problem for release in sup.installed()] == [None]
                assert seen_by(await sup.start(spec())) in "12"
                left = [each for each in leftovers(backends) if not each.startswith("downloads/")]
                assert left == [], f"turn {turn}, {delay:.4f} s, seed {seed}"
                assert live(backends) == ["engine"]


def _of(pid: int) -> _proc.Process:
    process = _proc.read_process(pid)
    assert process is not None
    return process


async def test_who_is_started_while_it_is_exchanged_has_one_whole_version(
    backends: Path, archives: tuple[Path, Path]
) -> None:
    seen: set[str] = set()
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(archives[0]), name="engine")
            async with trio.open_nursery() as nursery:

                async def exchange() -> None:
                    for turn in itertools.count(1):
                        await sup.install(str(archives[turn % 2]), name="engine", force=True)

                nursery.start_soon(exchange)
                turn = 0
                while turn < 10 or len(seen) < 2:
                    seen.add(seen_by(await sup.start(spec(), replica=turn)))
                    turn += 1
                # Through all that has happened since they were started.
                for backend in sup.backends:
                    assert backend.phase is Phase.READY
                    seen_by(backend)
                nursery.cancel_scope.cancel()


async def test_what_runs_keeps_its_files_through_what_other_processes_do(
    backends: Path, archives: tuple[Path, Path]
) -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(archives[0]), name="engine")
            backend = await sup.start(spec())
            with child("installs_while_it_runs", str(backends), *map(str, archives)):
                versions: set[str] = set()
                while len(versions) < 2:  # it goes on exchanging
                    versions.add(version_of(backends / "engine", FILES))
                    assert seen_by(backend) == "1"
                    await trio.sleep(0.01)
            async with trio_sup.open_supervisor(galleries=galleries(backends)):
                assert seen_by(backend) == "1"  # whatever its repair and its sweep have thrown away
            assert [each.pid for each in sup.backends] == [backend.pid]


async def test_a_deletion_that_is_refused_stops_nothing_and_takes_nothing(
    backends: Path, archives: tuple[Path, Path]
) -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            await sup.install(str(archives[0]), name="engine")
            backend = await sup.start(spec())
            with child("runs_from_a_release", str(backends / "engine")) as process:
                with pytest.raises(trio_sup.ReleaseInUse, match=f"pid {process.pid}"):
                    await sup.delete("engine")
                assert [each.pid for each in sup.backends] == [backend.pid]
                assert version_of(backends / "engine", FILES) == "1"
            assert len((await sup.delete("engine")).stopped) == 1
    assert live(backends) == []


BAD: Mapping[str, Page] = {
    "broken off": Page(body=b"x" * 100_000, cut_after=[1000] * 9, etag=""),
    "refused": Page(statuses=[403] * 9),
    "a page": Page(body=b"<html>" * 1000),
    "hostile": Page(body=tar([RUN, *UNSAFE["a chain of links that leads out"]])),
    "cut off": Page(body=tar([RUN, member("data", b"x" * 10_000)])[:5000]),
    "no backend": Page(body=tar([member("start.sh", b"")])),
}


@pytest.mark.parametrize("kind", BAD)
async def test_an_upgrade_that_fails_stops_nothing_and_changes_nothing(
    tmp_path: Path, backends: Path, archives: tuple[Path, Path], kind: str
) -> None:
    before = outside(tmp_path, backends)
    sources = {"http": {"retries": 1}}
    with trio.fail_after(60):
        async with (
            http_server() as server,
            trio_sup.open_supervisor(galleries=galleries(backends, sources=sources)) as sup,
        ):
            server.pages["/engine.tar.gz"] = Page(body=archives[0].read_bytes())
            await sup.install(f"{server.url}/engine.tar.gz")
            backend = await sup.start(spec())
            recorded = (backends / "engine" / "metadata.json").read_text()
            stream = sup.events()
            server.pages["/engine.tar.gz"] = BAD[kind]
            async with neighbour(sup):
                with pytest.raises(trio_sup.InstallFailed):
                    await sup.upgrade("engine", force=True)
            assert version_of(backends / "engine", FILES) == seen_by(backend) == "1"
            assert (backends / "engine" / "metadata.json").read_text() == recorded
            await sup.stop("neighbour")
            assert [(each.pid, each.phase) for each in sup.backends] == [(backend.pid, Phase.READY)]
            left = [each for each in leftovers(backends) if not each.startswith("downloads/")]
            assert (left, live(backends)) == ([], ["engine"])
        stopped = [event async for event in stream if isinstance(event, events.BackendStopping)]
        assert [str(event.key) for event in stopped] == ["neighbour#0", "engine#0"]
    assert outside(tmp_path, backends) == before


async def test_no_hostile_archive_leaves_anything(tmp_path: Path, backends: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "beside").write_text("mine")
    archive = tmp_path / "hostile.tar"
    archive.write_bytes(b"")
    before = outside(tmp_path, backends)
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(galleries=galleries(backends)) as sup:
            for kind, members in UNSAFE.items():
                archive.write_bytes(tar([RUN, *members]))
                with pytest.raises(trio_sup.UnsafeArchive):
                    await sup.install(str(archive), name="engine")
                archive.write_bytes(b"")
                assert (sup.installed(), live(backends), leftovers(backends)) == ((), [], []), kind
                assert outside(tmp_path, backends) == before, kind


async def test_what_two_install_at_once_is_whole_and_fetched_once(backends: Path, archives: tuple[Path, Path]) -> None:
    """Two supervisors in one process; those of two are in `tests/gallery/test_two_processes.py`."""
    given = archives[0].read_bytes()
    backends.mkdir()
    index = backends / "index.json"  # where alone indexes are read from files
    with trio.fail_after(60):
        async with http_server() as server:
            server.pages["/engine.tar.gz"] = Page(body=given)
            index.write_text(f'[{{"name": "engine", "uri": "{server.url}/engine.tar.gz"}}]')
            gallery = trio_sup.Gallery(name="own", url=index.as_uri())
            given_galleries = galleries(backends, index=(gallery,), auto_install=True)
            async with (
                trio_sup.open_supervisor(galleries=given_galleries) as one,
                trio_sup.open_supervisor(galleries=given_galleries) as two,
                trio.open_nursery() as nursery,
            ):
                for sup in (one, two):
                    for replica in range(2):
                        nursery.start_soon(partial(sup.start, spec(), replica=replica))
            assert server.sent == len(given)
    assert version_of(backends / "engine", FILES) == "1"
