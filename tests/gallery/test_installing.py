"""Installing: all or nothing, from names and from addresses, with a proof where one is required."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import descriptors
from tests.gallery.installs import (
    Scripted,
    installer_of,
    leftovers,
    live,
    version_of,
    write_archive,
    write_member,
    write_version,
)
from tests.gallery.test_exchange import unable
from trio_sup import InvalidValue
from trio_sup._gallery_errors import (
    DigestMismatch,
    DownloadFailed,
    GalleryUnavailable,
    InstallFailed,
    NotABackend,
    NotProven,
    UnknownEntry,
    UnknownRelease,
    UnknownSource,
    UnsafeArchive,
)
from trio_sup._releases import InstallPhase, InstallProgress
from trio_sup.defaults._memory_lock import MemoryLock
from trio_sup.gallery._boxes import Box
from trio_sup.gallery._exchange import Exchange, exchange
from trio_sup.strategies import Fetch, Fetched

ENGINE = (
    {"name": "engine", "capabilities": {"default": "cpu-engine", "nvidia": "cuda-engine"}},
    {"name": "cpu-engine", "alias": "engine", "uri": "test://cpu/1", "version": "1.0"},
)


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


@pytest.fixture(params=["in one step", "in two steps"])
def by(request: pytest.FixtureRequest) -> Exchange:
    return exchange if request.param == "in one step" else unable


@pytest.fixture(autouse=True)
def _bounded() -> Any:
    # Every test of this module leaves nothing open.
    before = descriptors()
    yield
    assert descriptors() == before


def recorded(backends: Path, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((backends / name / "metadata.json").read_text())
    return found


# ---- from a gallery


async def test_installs_what_a_gallery_offers_and_records_it(backends: Path, by: Exchange) -> None:
    source = Scripted(digests={"test://cpu/1": "sha256:00"})
    installer = installer_of(backends, *ENGINE, source=source, by=by)
    release = await installer.install("cpu-engine")
    assert (release.name, release.kind, release.runnable) == ("cpu-engine", "concrete", True)
    assert version_of(backends / "cpu-engine") == "1"
    record = recorded(backends, "cpu-engine")
    assert record.pop("installed_at").endswith("Z")
    assert record.pop("gallery_url").startswith("file:/")
    assert record == {
        "name": "cpu-engine",
        "alias": "engine",
        "version": "1.0",
        "uri": "test://cpu/1",
        "digest": "sha256:00",
    }
    assert leftovers(backends) == []
    assert live(backends) == ["cpu-engine"]


async def test_a_meta_brings_what_it_stands_for(backends: Path, by: Exchange) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted(), by=by)
    release = await installer.install("own@Engine")
    assert (release.name, release.concrete) == ("engine", "cpu-engine")
    assert live(backends) == ["cpu-engine", "engine"]
    assert os.listdir(backends / "engine") == ["metadata.json"]
    meta, concrete = recorded(backends, "engine"), recorded(backends, "cpu-engine")
    assert set(meta) == {"name", "meta_backend_for", "gallery_url", "installed_at", "version"}
    assert (meta["name"], meta["meta_backend_for"], meta["version"]) == ("engine", "cpu-engine", "1.0")
    assert meta["installed_at"] == concrete["installed_at"]


async def test_what_is_installed_is_not_fetched_again_unless_that_is_forced(backends: Path) -> None:
    source = Scripted()
    installer = installer_of(backends, *ENGINE, source=source)
    await installer.install("engine")
    for name in ("engine", "cpu-engine", "own@cpu-engine", "Cpu-Engine"):
        assert (await installer.install(name)).concrete == "cpu-engine"
    assert len(source.fetched) == 1
    await installer.install("engine", force=True)
    assert len(source.fetched) == 2


async def test_only_the_meta_is_made_if_what_it_stands_for_is_there(backends: Path) -> None:
    source = Scripted()
    concrete = {key: value for key, value in ENGINE[1].items() if key != "alias"}
    installer = installer_of(backends, ENGINE[0], concrete, source=source)
    await installer.install("cpu-engine")
    inode = (backends / "cpu-engine").stat().st_ino
    assert (await installer.install("engine")).kind == "meta"
    assert len(source.fetched) == 1
    assert (backends / "cpu-engine").stat().st_ino == inode
    assert recorded(backends, "engine")["version"] == "1.0"
    assert leftovers(backends) == []


async def test_a_meta_whose_release_is_gone_is_installed_again(backends: Path) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted())
    await installer.install("engine")
    (backends / "cpu-engine").rename(backends / ".away")
    assert (await installer.install("engine")).runnable
    assert version_of(backends / "cpu-engine") == "1"


async def test_a_reinstallation_leaves_nothing_of_the_old_one(backends: Path, tmp_path: Path, by: Exchange) -> None:
    installer = installer_of(backends, by=by)
    source = write_version(tmp_path / "one", "1")
    await installer.install(str(source))
    inode = (backends / "one").stat().st_ino
    (source / "only-in-1").unlink()
    write_version(source, "2")
    await installer.install(str(source))
    assert version_of(backends / "one") == "2"
    assert (backends / "one").stat().st_ino != inode
    assert leftovers(backends) == []


@pytest.mark.parametrize("there", ["file", "link", "no run.sh", "broken run.sh"])
async def test_whatever_is_in_its_place_is_replaced(backends: Path, there: str, by: Exchange) -> None:
    backends.mkdir()
    place = backends / "cpu-engine"
    match there:
        case "file":
            place.touch()
        case "link":
            place.symlink_to("/etc")
        case "no run.sh":
            (place / "lib").mkdir(parents=True)
        case _:
            (place / "run.sh").mkdir(parents=True)
    await installer_of(backends, *ENGINE, source=Scripted(), by=by).install("engine")
    assert version_of(place) == "1"
    assert not place.is_symlink()


async def test_unknown_names_say_what_there_is(backends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted())
    with pytest.raises(UnknownEntry, match="did you mean 'engine'"):
        await installer.install("engin")
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownEntry, match=r"the directory of this name here is \./local"):
        await installer.install("local")
    assert not backends.exists()


async def test_one_of_a_gallery_that_is_named_takes_the_place_of_one_from_elsewhere(backends: Path) -> None:
    source = Scripted()
    installer = installer_of(backends, *ENGINE, source=source)
    await installer.install(str(write_version(backends.parent / "cpu-engine", "mine")))
    await installer.install("cpu-engine")
    assert version_of(backends / "cpu-engine") == "mine"
    for what in ("own@cpu-engine", "own@cpu-engine", "own@engine", "own@engine"):
        await installer.install(what)
        assert version_of(backends / "cpu-engine") == "1"
    assert source.fetched == ["test://cpu/1"]


async def test_a_gallery_that_cannot_be_read_is_an_error(backends: Path) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted())
    (backends.parent / "backends.index.yaml").unlink()
    with pytest.raises(GalleryUnavailable):
        await installer.install("engine")


# ---- from an address


async def test_an_address_gives_the_name(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends)
    source = write_version(tmp_path / "my-engine", "1")
    archive = write_archive(tmp_path / "packed-1.0.tar.gz", source)
    assert (await installer.install(str(source), alias="nick")).name == "my-engine"
    assert (await installer.install(f"file://{archive}")).name == "packed-1.0"
    assert (await installer.install(str(archive), name="other")).name == "other"
    assert live(backends) == ["my-engine", "other", "packed-1.0"]
    assert recorded(backends, "my-engine")["alias"] == "nick"
    assert recorded(backends, "my-engine")["uri"] == str(source)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert recorded(backends, "other") | {"installed_at": ""} == {
        "name": "other",
        "installed_at": "",
        "uri": f"file://{archive}",
        "digest": f"sha256:{digest}",
    }
    assert installer.find("nick").concrete == "my-engine"


async def test_what_an_address_leads_to_is_always_fetched_again(backends: Path) -> None:
    source = Scripted()
    installer = installer_of(backends, source=source)
    for _ in range(2):
        await installer.install("test://one", name="one")
    assert len(source.fetched) == 2


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("engine", {"name": "x"}, "name: only for an address"),
        ("engine", {"alias": "x"}, "alias: only for an address"),
        ("engine", {"sha256": "0" * 64}, "sha256: only for an address"),
        ("test://one", {}, "say what it is to be called"),
        ("quay.io/a/b:c", {}, "say what it is to be called"),
        ("test://one", {"name": "../x"}, "a backend's name"),
        ("test://one", {"name": "one", "alias": "a/b"}, "a backend's name"),
        ("test://one", {"name": "one.install-tmp"}, "must not end in"),
        ("test://one", {"name": "one", "sha256": "short"}, "64 hex digits"),
        ("/nowhere/at/all", {}, "no such file or directory"),
        ("", {}, "expected the name of a backend"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_written(
    backends: Path, what: str, options: dict[str, Any], said: str
) -> None:
    source = Scripted()
    with pytest.raises(InvalidValue, match=said):
        await installer_of(backends, *ENGINE, source=source).install(what, **options)
    assert source.fetched == []
    assert not backends.exists()


async def test_an_address_that_nobody_fetches_says_so(backends: Path) -> None:
    with pytest.raises(UnknownSource, match="nothing here fetches 'gopher'"):
        await installer_of(backends).install("gopher://x", name="x")
    assert not backends.exists()


# ---- where else it may be


MIRRORED = {"name": "one", "uri": "test://primary/1", "mirrors": ["test://mirror/2", "test://mirror/3"]}


async def test_mirrors_are_tried_in_order_and_what_was_really_fetched_is_recorded(backends: Path) -> None:
    source = Scripted(
        fail={
            "test://primary/1": DownloadFailed("test://primary/1", "the server is away"),
            "test://mirror/2": DigestMismatch("test://mirror/2", "", expected="sha256:1", found="sha256:2"),
        },
        digests={"test://mirror/3": "sha256:33"},
    )
    await installer_of(backends, MIRRORED, source=source).install("one")
    assert source.fetched == ["test://primary/1", "test://mirror/2", "test://mirror/3"]
    assert version_of(backends / "one") == "3"  # and nothing of what the others had begun with
    assert (recorded(backends, "one")["uri"], recorded(backends, "one")["digest"]) == ("test://mirror/3", "sha256:33")
    assert leftovers(backends) == []


async def test_every_failure_is_in_the_error(backends: Path) -> None:
    source = Scripted(
        fail={
            "test://primary/1": DownloadFailed("test://primary/1", "the server is away"),
            "test://mirror/2": UnsafeArchive("test://mirror/2", "leads out of it", member="../x"),
            "test://mirror/3": ZeroDivisionError("a bug"),
        }
    )
    installer = installer_of(backends, MIRRORED, source=source)
    with pytest.raises(InstallFailed) as raised:
        await installer.install("one")
    said = str(raised.value)
    for part in ("the server is away", "'../x' leads out of it", "ZeroDivisionError: a bug", "test://mirror/3"):
        assert part in said
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert len(raised.value.__cause__.exceptions) == 3
    assert live(backends) == []
    assert leftovers(backends) == []


async def test_a_single_failure_and_failures_of_one_kind_are_that_kind(backends: Path) -> None:
    fail: dict[str, Exception] = {
        f"test://{place}": DownloadFailed(f"test://{place}", "away", temporary)
        for place, temporary in (("primary/1", False), ("mirror/2", True), ("mirror/3", False))
    }
    installer = installer_of(backends, MIRRORED, source=Scripted(fail=fail))
    with pytest.raises(DownloadFailed, match="away; test://mirror/2: away") as raised:
        await installer.install("one")
    assert raised.value.temporary
    mismatch = DigestMismatch("x", "", expected="sha256:1", found="sha256:2")
    with pytest.raises(DigestMismatch):
        await installer_of(backends, source=Scripted(fail={"test://x": mismatch})).install("test://x", name="x")


async def test_images_are_looked_for_under_other_tags_and_mirrors_without_a_registry_at_docker_hub(
    backends: Path,
) -> None:
    class Registry(Scripted):
        async def fetch(self, fetch: Fetch) -> Fetched:
            self.fetched.append(fetch.uri)
            if not fetch.uri.endswith("-development"):
                raise DownloadFailed(fetch.uri, "no such tag", temporary=False)
            write_version(fetch.into, "1")
            return Fetched(uri=fetch.uri)

    source = Registry()
    entry = {"name": "one", "uri": "quay.io/a/b:latest-cpu-x", "mirrors": ["localai/b:latest-cpu-x"]}
    await installer_of(backends, entry, source=source).install("one")
    assert source.fetched == [
        "oci://quay.io/a/b:latest-cpu-x",
        "oci://docker.io/localai/b:latest-cpu-x",
        "oci://quay.io/a/b:master-cpu-x",
        "oci://quay.io/a/b:master-cpu-x-development",
    ]


@pytest.mark.parametrize("nonsense", ["done", None, Fetched(uri=7), Fetched(uri="x", digest=b"x")])  # type: ignore[arg-type]
async def test_a_source_that_returns_nonsense_is_named(backends: Path, nonsense: Any) -> None:
    class Nonsense(Scripted):
        async def fetch(self, fetch: Fetch) -> Fetched:
            await super().fetch(fetch)
            return nonsense  # type: ignore[no-any-return]

    with pytest.raises(InstallFailed, match="instead of a Fetched"):
        await installer_of(backends, source=Nonsense()).install("test://x", name="x")
    assert live(backends) == []


# ---- what is refused


async def test_without_a_run_script_it_is_no_backend(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends)
    await installer.install(str(write_version(tmp_path / "one", "1")))
    nested = write_version(tmp_path / "nested" / "one", "2").parent
    (nested / "README").touch()
    for what, said in (
        (write_member(tmp_path / "empty.tar", "README"), "no file run.sh in it"),
        (write_archive(tmp_path / "nested.tar.gz", nested), "there is one in its directory one"),
        (write_member(tmp_path / "image.tar", "oci-layout"), "whose address begins with ocifile://"),
    ):
        with pytest.raises(NotABackend, match=said):
            await installer.install(str(what), name="one")
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_a_run_script_must_not_lead_out_of_the_release(backends: Path) -> None:
    async def link(fetch: Fetch) -> None:
        (fetch.into / "run.sh").unlink()
        (fetch.into / "run.sh").symlink_to("/bin/sh")

    with pytest.raises(NotABackend, match="leads out of it"):
        await installer_of(backends, source=Scripted(during=link)).install("test://x", name="x")


@pytest.mark.parametrize(("mode", "then"), [(0o600, 0o700), (0o644, 0o755), (0o640, 0o750), (0o744, 0o744)])
async def test_a_run_script_that_nobody_may_execute_is_made_executable(backends: Path, mode: int, then: int) -> None:
    async def change(fetch: Fetch) -> None:
        (fetch.into / "run.sh").chmod(mode)

    await installer_of(backends, source=Scripted(during=change)).install("test://x", name="x")
    assert (backends / "x" / "run.sh").stat().st_mode & 0o777 == then


async def test_a_hostile_archive_leaves_the_old_one(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends)
    await installer.install(str(write_version(tmp_path / "one", "1")))
    evil = write_member(tmp_path / "evil.tar", "../../../evil", b"x")
    with pytest.raises(UnsafeArchive):
        await installer.install(str(evil), name="one")
    with pytest.raises(DigestMismatch):
        await installer.install(str(write_archive(tmp_path / "a.tar", tmp_path / "one")), name="one", sha256="0" * 64)
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_more_than_there_is_room_for_is_refused_before_it_is_fetched(
    backends: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 0, 10**6))
    went_on = False

    async def download(fetch: Fetch) -> None:
        nonlocal went_on
        (fetch.scratch / "half").write_text("half")
        fetch.report(InstallPhase.DOWNLOADING, 10, 10**6)
        await trio.lowlevel.checkpoint()
        # Sources work in threads, too.
        await trio.to_thread.run_sync(fetch.report, InstallPhase.DOWNLOADING, 0, 5 * 10**9)
        await trio.sleep_forever()
        went_on = True

    with trio.fail_after(10), pytest.raises(InstallFailed, match=r"needs 4.657 GiB, and .* has 976.6 KiB left"):
        await installer_of(backends, MIRRORED, source=Scripted(during=download)).install("one")
    assert not went_on
    (kept,) = leftovers(backends)
    assert kept.startswith("downloads/")


async def test_a_full_disk_is_said_at_once_and_no_mirror_tried(backends: Path) -> None:
    source = Scripted(fail={"test://primary/1": OSError(errno.ENOSPC, "No space left on device")})
    with pytest.raises(InstallFailed, match="no room left"):
        await installer_of(backends, MIRRORED, source=source).install("one")
    assert len(source.fetched) == 1
    assert leftovers(backends) == []


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((InstallFailed, OSError), match="file"):
        await installer_of(tmp_path / "file" / "backends", source=Scripted()).install("test://x", name="x")


# ---- integrity


async def test_where_integrity_is_required_what_nothing_proves_is_refused_before_a_byte_is_written(
    backends: Path,
) -> None:
    source = Scripted()
    installer = installer_of(backends, MIRRORED, source=source, require_integrity=True)
    with pytest.raises(NotProven, match=r"strict integrity: one is refused.*give a sha256"):
        await installer.install("one")
    with pytest.raises(NotProven, match="test://x"):
        await installer.install("test://x", name="x")
    assert source.fetched == []
    assert not backends.exists()


async def test_a_place_that_is_proven_is_taken_and_the_others_are_not(backends: Path) -> None:
    source = Scripted(proofs={"test://mirror/3": "the digest in its address"})
    await installer_of(backends, MIRRORED, source=source, require_integrity=True).install("one")
    assert source.fetched == ["test://mirror/3"]


async def test_a_gallery_that_signs_is_proof_and_its_policy_reaches_the_source(backends: Path) -> None:
    asked: list[Any] = []

    async def look(fetch: Fetch) -> None:
        asked.append((fetch.verification, fetch.sha256))

    entry = {**MIRRORED, "sha256": "ab" * 32}
    installer = installer_of(
        backends,
        entry,
        source=Scripted(during=look),
        require_integrity=True,
        gallery={"verification": {"key": "x"}},
    )
    await installer.install("one")
    assert asked == [({"key": "x"}, "ab" * 32)]


async def test_the_real_sources_hold_to_it(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends, require_integrity=True)
    source = write_version(tmp_path / "one", "1")
    archive = write_archive(tmp_path / "two.tar.gz", source)
    await installer.install(str(source))
    with pytest.raises(NotProven):
        await installer.install(str(archive))
    assert live(backends) == ["one"]
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    await installer.install(str(archive), sha256=f"sha256:{digest.upper()}")
    assert live(backends) == ["one", "two"]


# ---- staged


async def test_nothing_live_is_touched_before_the_commit_nor_without_it(backends: Path, tmp_path: Path) -> None:
    installer = installer_of(backends)
    await installer.install(str(write_version(tmp_path / "a" / "one", "1")))
    async with installer.staged(str(write_version(tmp_path / "b" / "one", "2"))) as staged:
        assert staged.installed is None
        assert staged.replaces is not None
        assert staged.replaces.name == "one"
        assert version_of(backends / "one") == "1"
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_what_is_installed_already_is_given_at_once_and_committed_to_no_effect(backends: Path) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted())
    await installer.install("engine")
    async with installer.staged("engine") as staged:
        assert staged.installed is not None
        assert await staged.commit() == staged.installed


async def test_before_runs_under_the_lock_and_what_it_raises_gives_it_up(backends: Path) -> None:
    lock = MemoryLock()
    installer = installer_of(backends, source=Scripted(), lock=lock)
    await installer.install("test://x/1", name="one")

    async def refuse() -> None:
        with trio.move_on_after(0.05) as scope:
            async with lock.hold("one", shared=True):
                pass
        assert scope.cancelled_caught
        assert version_of(backends / "one") == "1"
        raise RuntimeError("it does not stop")

    with trio.fail_after(10):
        async with installer.staged("test://x/2", name="one") as staged:
            async with lock.hold("one", shared=True):
                pass  # launches are not kept waiting while it is fetched
            with pytest.raises(RuntimeError, match="it does not stop"):
                await staged.commit(before=refuse)
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_a_commit_waits_for_launches_and_can_be_given_up_until_then(backends: Path) -> None:
    lock = MemoryLock()
    installer = installer_of(backends, source=Scripted(), lock=lock)
    told: list[InstallProgress] = []
    with trio.fail_after(10):
        async with lock.hold("one", shared=True):
            with trio.CancelScope() as scope:

                def tell(progress: InstallProgress) -> None:
                    told.append(progress)
                    if progress.phase is InstallPhase.WAITING:
                        scope.cancel()

                await installer.install("test://x/1", name="one", report=tell)
        assert scope.cancelled_caught
    assert told[-1].detail.startswith("the install lock of one, held by the task")
    assert live(backends) == []
    assert leftovers(backends) == []


async def test_once_begun_a_commit_is_finished_and_its_result_told(backends: Path) -> None:
    installer = installer_of(backends, source=Scripted())
    result = None
    with trio.CancelScope() as scope:

        async def leave() -> None:
            scope.cancel()
            await trio.lowlevel.checkpoint()

        async with installer.staged("test://x/1", name="one") as staged:
            result = await staged.commit(before=leave)
    assert result is not None
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_a_meta_that_cannot_be_put_in_place_takes_its_release_back(
    backends: Path, monkeypatch: pytest.MonkeyPatch, by: Exchange
) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted(), by=by)
    put = Box.put

    def failing(self: Box, name: str, place: Path) -> None:
        if place.name == "engine":
            raise OSError(errno.EBUSY, "Device or resource busy")
        put(self, name, place)

    monkeypatch.setattr(Box, "put", failing)
    with pytest.raises(InstallFailed, match="a file system is mounted there"):
        await installer.install("engine")
    assert live(backends) == []
    monkeypatch.undo()
    await installer.install("cpu-engine")
    monkeypatch.setattr(Box, "put", failing)
    inode = (backends / "cpu-engine").stat().st_ino
    with pytest.raises(InstallFailed):
        await installer.install("engine", force=True)
    assert (backends / "cpu-engine").stat().st_ino == inode
    assert leftovers(backends) == []


async def test_what_cannot_even_be_put_back_is_said(backends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Box.put

    def failing(self: Box, name: str, place: Path) -> None:
        if place.name == "engine":
            raise OSError(errno.EIO, "Input/output error")
        put(self, name, place)

    def failing_too(self: Box, name: str, place: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Box, "put", failing)
    monkeypatch.setattr(Box, "take_back", failing_too)
    with pytest.raises(InstallFailed, match=r"Input/output error\. And what was at .*cpu-engine could not be put back"):
        await installer_of(backends, *ENGINE, source=Scripted()).install("engine")


@pytest.mark.parametrize("force", [False, True])
async def test_tasks_that_install_the_same_take_turns(backends: Path, force: bool) -> None:
    source = Scripted()
    installer = installer_of(backends, *ENGINE, source=source)
    told: list[str] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for name in ("engine", "cpu-engine", "engine"):

                async def install(name: str = name) -> None:
                    await installer.install(name, force=force, report=lambda p: told.append(p.detail))

                nursery.start_soon(install)
    assert len(source.fetched) == (3 if force else 1)
    assert version_of(backends / "cpu-engine") == "1"
    # Whoever comes after the concrete one finds that its alias means it, and needs no meta.
    assert set(live(backends)) <= {"cpu-engine", "engine"}
    assert installer.find("engine").concrete == "cpu-engine"
    assert leftovers(backends) == []


async def test_a_release_and_its_alias_do_not_keep_one_another_waiting_forever(backends: Path) -> None:
    """A gallery whose names look like those of locks."""
    entries = (
        {"name": "one.install", "capabilities": {"default": "one"}},
        {"name": "one~install", "uri": "test://bad/1"},
        {"name": "one", "uri": "test://one/1"},
    )
    installer = installer_of(backends, *entries, source=Scripted(), lock=MemoryLock())
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for name in ("one.install", "one"):
                nursery.start_soon(installer.install, name)
    assert live(backends) == ["one", "one.install"]


# ---- cancelled


async def test_cancelled_anywhere_it_leaves_nothing_but_the_download(backends: Path, by: Exchange) -> None:
    """Cancelled at the first checkpoint, the second, and so on, until it comes to its end."""

    async def download(fetch: Fetch) -> None:
        (fetch.scratch / "half").write_text("half")
        await trio.lowlevel.checkpoint()

    installer = installer_of(backends, *ENGINE, source=Scripted(during=download), by=by)
    await installer.install("test://old/0", name="cpu-engine")
    for step in range(200):
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(counter := _CancelAt(step, scope))
            try:
                await installer.install("engine", force=True)
                break
            finally:
                trio.lowlevel.remove_instrument(counter)
        assert version_of(backends / "cpu-engine") in ("0", "1")
        assert [each for each in leftovers(backends) if not each.startswith("downloads/")] == []
    else:
        pytest.fail("it never comes to an end")
    assert step > 10
    assert version_of(backends / "cpu-engine") == "1"
    assert leftovers(backends) == []


class _CancelAt(trio.abc.Instrument):
    """Cancels at the given step of the task that makes it."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left = step
        self.scope = scope
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            if self.left == 0:
                self.scope.cancel()
            self.left -= 1


# ---- told


async def test_progress_goes_through_real_phases(backends: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "one.tar.gz", write_version(tmp_path / "one", "1"))
    told: list[InstallProgress] = []
    await installer_of(backends).install(str(archive), report=told.append)
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases == [InstallPhase.RESOLVING, InstallPhase.VERIFYING, InstallPhase.UNPACKING, InstallPhase.DONE]
    assert told[0].detail == f"{archive}, which nothing proves"
    assert {progress.backend for progress in told} == {"one"}
    verified = [progress for progress in told if progress.phase is InstallPhase.VERIFYING][-1]
    assert verified.fraction == 1


@pytest.mark.parametrize("at", [InstallPhase.RESOLVING, InstallPhase.DOWNLOADING])
async def test_a_listener_that_raises_ends_the_installation(backends: Path, at: InstallPhase) -> None:
    async def download(fetch: Fetch) -> None:
        fetch.report(InstallPhase.DOWNLOADING, 1, None)
        await trio.sleep_forever()

    def listener(progress: InstallProgress) -> None:
        if progress.phase is at:
            raise LookupError("a bug of the listener")

    with trio.fail_after(10), pytest.raises(LookupError, match="a bug of the listener"):
        await installer_of(backends, MIRRORED, source=Scripted(during=download)).install("one", report=listener)
    assert leftovers(backends) == []


async def test_a_listener_that_raises_at_the_end_changes_nothing(backends: Path) -> None:
    def listener(progress: InstallProgress) -> None:
        if progress.phase is InstallPhase.DONE:
            raise LookupError

    assert (await installer_of(backends, source=Scripted()).install("test://x", name="x", report=listener)).runnable


# ---- what is there


async def test_find_wants_what_can_be_run(backends: Path) -> None:
    installer = installer_of(backends, *ENGINE, source=Scripted(), capability="nvidia")
    await installer.install("cpu-engine")
    assert installer.find("engine").directory == installer.directory("engine") == backends / "cpu-engine"
    assert installer.concrete("engine") == "cpu-engine"
    assert installer.identity("cpu-engine") == {"cpu-engine", "engine"}
    (backends / "cpu-engine" / "run.sh").unlink()
    with pytest.raises(UnknownRelease, match="nothing is installed"):
        installer.find("cpu-engine")
    assert installer.find("cpu-engine", runnable=False).problem is not None
    assert installer.directory("missing") is None
