"""Which releases there are newer ones of, by version, else by digest; and getting them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.gallery.installs import (
    Scripted,
    installer_of,
    leftovers,
    live,
    version_of,
    write_archive,
    write_version,
)
from trio_sup import InvalidValue
from trio_sup._gallery_errors import DownloadFailed, GalleryUnavailable, InstallFailed, UnknownRelease
from trio_sup._releases import InstallPhase, InstallProgress
from trio_sup.gallery._installing import Installer

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


def entry(name: str = "one", **fields: Any) -> Mapping[str, Any]:
    return {"name": name, "uri": f"test://{name}/1", **fields}


async def installed_then(
    backends: Path, before: Mapping[str, Any], after: Mapping[str, Any], *, source: Scripted | None = None
) -> Installer:
    """Install from a gallery with *before*; the gallery has *after* now."""
    source = source or Scripted()
    await installer_of(backends, before, source=source).install(before["name"])
    return installer_of(backends, after, source=source)


@pytest.mark.parametrize(
    ("installed", "offered", "why"),
    [
        ("1.0", "1.1", "version 1.1 instead of 1.0"),
        ("1.1", "1.0", "version 1.0 instead of 1.1"),
        ("1.0", "1.0", None),
        (None, "1.0", "version 1.0; which one is installed was not recorded"),
        ("", "1.0", "version 1.0; which one is installed was not recorded"),
        ("1.0", None, None),
        (None, None, None),
    ],
)
async def test_versions_decide_where_there_are_some(
    backends: Path, installed: str | None, offered: str | None, why: str | None
) -> None:
    installer = await installed_then(backends, entry(version=installed), entry(version=offered))
    found = await installer.upgrades()
    assert [upgrade.why for upgrade in found] == ([why] if why else [])
    if why:
        assert found[0].release.name == "one"
        assert found[0].entry is not None
        assert str(found[0]) == f"one: {why}"


@pytest.mark.parametrize(
    ("recorded", "now", "newer"), [(ONE, TWO, True), (ONE, ONE, False), (None, TWO, True), (ONE, None, False)]
)
async def test_else_digests_do(backends: Path, recorded: str | None, now: str | None, newer: bool) -> None:
    source = Scripted(digests={"test://one/1": recorded})
    installer = await installed_then(backends, entry(), entry(), source=source)
    source.digests = {"test://one/1": now}
    assert bool(await installer.upgrades()) is newer


async def test_a_digest_in_the_gallery_needs_no_question(backends: Path) -> None:
    source = Scripted(digests={"test://one/1": ONE})
    installer = await installed_then(backends, entry(), entry(sha256="1" * 64), source=source)
    source.digests = {"test://one/1": LookupError()}
    assert await installer.upgrades() == ()
    installer = installer_of(backends, entry(sha256="2" * 64), source=source)
    assert len(await installer.upgrades()) == 1


async def test_a_place_that_cannot_be_asked_gives_way_to_the_next(backends: Path) -> None:
    fields: Mapping[str, Any] = {"mirrors": ["test://mirror/1"]}
    source = Scripted(digests={"test://one/1": ONE})
    installer = await installed_then(backends, entry(**fields), entry(**fields), source=source)
    away = DownloadFailed("test://one/1", "away")
    source.digests = {"test://one/1": away, "test://mirror/1": TWO}
    assert len(await installer.upgrades()) == 1
    source.digests = {"test://one/1": away, "test://mirror/1": away}
    with pytest.raises(DownloadFailed, match="away"):
        await installer.upgrades(["one"])


async def test_of_many_the_one_that_cannot_be_asked_is_passed_over_and_logged(
    backends: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(digests={"test://one/1": ONE, "test://two/1": ONE})
    entries = (entry("one"), entry("two"))
    installer = installer_of(backends, *entries, source=source)
    for name in ("one", "two"):
        await installer.install(name)
    source.digests = {"test://one/1": DownloadFailed("test://one/1", "away"), "test://two/1": TWO}
    assert [upgrade.release.name for upgrade in await installer.upgrades()] == ["two"]
    assert "whether there is a newer one cannot be told" in caplog.text


@pytest.mark.parametrize("nonsense", [LookupError("its own"), 3])
async def test_a_source_that_fails_in_its_own_way_hides_no_other_upgrade(
    backends: Path, caplog: pytest.LogCaptureFixture, nonsense: Any
) -> None:
    source = Scripted(digests={"test://one/1": ONE, "test://two/1": ONE})
    installer = installer_of(backends, entry("one"), entry("two"), source=source)
    for name in ("one", "two"):
        await installer.install(name)
    source.digests = {"test://one/1": nonsense, "test://two/1": TWO}
    assert [upgrade.release.name for upgrade in await installer.upgrades()] == ["two"]
    assert "whether there is a newer one cannot be told" in caplog.text
    with pytest.raises(DownloadFailed, match="its source failed with"):
        await installer.upgrades(["one"])


async def test_what_is_not_asked_about(backends: Path, tmp_path: Path) -> None:
    write_version(tmp_path / "system" / "sys", "1")
    entries = (
        entry("sys", version="2"),
        entry("one", version="1", alias="nick"),
        entry("one-development", version="1"),
        {"name": "meta", "capabilities": {"default": "two"}, "version": "9"},
        entry("two", version="1"),
    )
    source = Scripted()
    installer = installer_of(backends, *entries, source=source, system_dir=tmp_path / "system")
    for name in ("one", "one-development", "meta"):
        await installer.install(name)
    newer = [{**each, "version": "2"} for each in entries]
    installer = installer_of(backends, *newer, source=source, system_dir=tmp_path / "system")
    assert [upgrade.release.name for upgrade in await installer.upgrades()] == ["one-development", "two"]
    # By any of its names, though once.
    assert [upgrade.release.name for upgrade in await installer.upgrades(["meta", "two"])] == ["two"]
    assert await installer.upgrades(["nick", "sys"]) == ()
    with pytest.raises(UnknownRelease):
        await installer.upgrades(["missing"])


async def test_a_build_for_another_machine_is_compared_all_the_same(backends: Path) -> None:
    """A store that machines with and without a GPU share."""
    before, after = entry("cuda-one", version="1"), entry("cuda-one", version="2")
    await installer_of(backends, before, source=Scripted(), capability="nvidia").install("cuda-one")
    installer = installer_of(backends, after, source=Scripted(), capability="default")
    assert len(await installer.upgrades()) == 1


async def test_what_came_from_an_address_is_compared_with_the_address(backends: Path, tmp_path: Path) -> None:
    source = write_version(tmp_path / "one", "1")
    archive = write_archive(tmp_path / "one.tar.gz", source)
    # A gallery that has something of the same name is not where it came from.
    installer = installer_of(backends, entry("one", version="9"))
    await installer.install(str(archive))
    assert await installer.upgrades() == ()
    (source / "only-in-1").unlink()
    write_archive(archive, write_version(source, "2"))
    (upgrade,) = await installer.upgrades()
    assert upgrade.entry is None
    assert upgrade.why.startswith("sha256:")


async def test_a_gallery_that_cannot_be_read_is_an_error(backends: Path) -> None:
    installer = await installed_then(backends, entry(), entry())
    (backends.parent / "backends.index.yaml").unlink()
    with pytest.raises(GalleryUnavailable):
        await installer.upgrades()


# ---- getting it


async def test_an_upgrade_replaces_all_and_its_metas_say_so(backends: Path) -> None:
    meta = {"name": "meta", "capabilities": {"default": "one"}}
    source = Scripted()
    installer = installer_of(backends, meta, entry(version="1", alias="nick"), source=source)
    await installer.install("meta")
    new = entry(version="2", uri="test://one/2", alias="nick")
    installer = installer_of(backends, meta, new, source=source)
    told: list[InstallProgress] = []
    async with installer.staged_upgrade("meta", report=told.append) as staged:
        assert staged.replaces is not None
        assert staged.replaces.metadata.version == "1"
        assert version_of(backends / "one") == "1"
        release = await staged.commit()
    assert (release.name, release.kind, release.metadata.version) == ("meta", "meta", "2")
    assert version_of(backends / "one") == "2"
    assert json.loads((backends / "one" / "metadata.json").read_text())["version"] == "2"
    assert installer.find("nick").concrete == "one"
    # Whoever asked tells the end: the backends are to be started again first.
    assert InstallPhase.DONE not in {progress.phase for progress in told}
    assert leftovers(backends) == []
    assert await installer.upgrades() == ()


async def test_one_that_fails_leaves_the_old_one(backends: Path) -> None:
    source = Scripted()
    installer = await installed_then(backends, entry(), entry(version="2"), source=source)
    source.fail = {"test://one/1": DownloadFailed("test://one/1", "away")}
    with pytest.raises(DownloadFailed):
        async with installer.staged_upgrade("one"):
            pass
    assert version_of(backends / "one") == "1"
    assert leftovers(backends) == []


async def test_what_came_from_an_address_comes_from_there_again(backends: Path, tmp_path: Path) -> None:
    source = write_version(tmp_path / "with blank" / "one", "1")
    installer = installer_of(backends)
    await installer.install(str(source), name="own", alias="nick")
    (source / "only-in-1").unlink()
    write_version(source, "2")
    async with installer.staged_upgrade("nick") as staged:
        assert (await staged.commit()).name == "nick"
    assert version_of(backends / "own") == "2"
    assert live(backends) == ["own"]


async def test_what_nobody_can_upgrade_says_why(backends: Path, tmp_path: Path) -> None:
    write_version(tmp_path / "system" / "sys", "1")
    write_version(backends / "handmade", "1")
    installer = installer_of(backends, system_dir=tmp_path / "system")
    for name, error, said in (
        ("missing", UnknownRelease, "not installed"),
        ("sys", InvalidValue, "came with the machine"),
        ("handmade", InstallFailed, "not recorded where it came from"),
    ):
        with pytest.raises(error, match=said):
            async with installer.staged_upgrade(name):
                pass
    assert version_of(backends / "handmade") == "1"


async def test_what_was_deleted_meanwhile_is_installed_anew(backends: Path) -> None:
    installer = await installed_then(backends, entry(), entry(version="2"))
    with trio.fail_after(10):
        async with installer.staged_upgrade("one") as staged:
            await installer.delete("one")
            assert (await staged.commit()).runnable
    assert live(backends) == ["one"]
