"""The built-in sources, beyond what every source must do: directories, archives on disk and on web servers."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import socket
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.gallery.http_server import HttpServer, Page, http_server
from tests.gallery.tars import RUN, member, tar
from trio_sup import InvalidValue
from trio_sup._gallery_errors import ArchiveTooLarge, DigestMismatch, DownloadFailed, InstallFailed, UnsafeArchive
from trio_sup._structuring import InvalidTable, structure
from trio_sup.defaults import _gallery_sources
from trio_sup.defaults._gallery_sources import ArchiveFile, Directory
from trio_sup.defaults._web_archive import WebArchive
from trio_sup.gallery import _copying, _download
from trio_sup.strategies import Fetch, Fetched, GallerySource, InstallPhase, UnpackLimits

NOISE = random.Random(7).randbytes(3_000_000)
ARCHIVE = gzip.compress(tar([RUN, member("data", NOISE)]), 1)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


class Ground:
    """Where a source puts what it fetches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.told: list[tuple[InstallPhase, int, int | None]] = []
        self.fetches = 0

    @property
    def into(self) -> Path:
        return self.folder / f"into-{self.fetches}"

    async def fetch(self, source: GallerySource, uri: str, **asked: Any) -> Fetched:
        self.fetches += 1
        self.into.mkdir()
        self.told.clear()
        asked.setdefault("report", lambda *told: self.told.append(told))
        with trio.fail_after(30):
            return await source.fetch(Fetch(uri=uri, into=self.into, scratch=self.scratch, **asked))

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.into)) for path in self.into.rglob("*"))


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "FIRST_WAIT", 0.01)


def release(folder: Path) -> Path:
    """A directory with a release in it."""
    (folder / "lib").mkdir(parents=True)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "lib" / "one").write_bytes(b"1")
    return folder


def uri_of(folder: Path) -> str:
    return folder.as_uri().replace("file:", "dir:")


# ---- options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stall_timeout": 0}, "stall_timeout"),
        ({"stall_timeout": "soon"}, "stall_timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": True}, "retries"),
        ({"retries": 1.5}, "retries"),
        ({"headers": ["Authorization"]}, "headers"),
        ({"headers": {"Authorization": "s3cret"}}, "headers"),
        ({"headers": {"example.com": "s3cret"}}, "headers"),
        ({"headers": {"https://example.com": {"Authorization": "s3cret"}}}, "headers"),
        ({"headers": {"example.com": {"Authorization": 5}}}, "headers"),
        ({"headers": {"example.com": {"Authorization": "s3cret\r\nX: y"}}}, "headers"),
        ({"headers": {"example.com": {"Authorization": " s3cret"}}}, "headers"),
        ({"headers": {"example.com": {"Authorization": "s3cr\u00e9t"}}}, "headers"),
        ({"headers": {"example.com": {"Two words": "s3cret"}}}, "headers"),
        ({"headers": {"example.com": {"Range": "bytes=0-1"}}}, "headers"),
        ({"headers": {"example.com": {"Accept-Encoding": "gzip"}}}, "headers"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_named_and_no_secret_shown(options: Mapping[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}: ") as caught:
        WebArchive(**options)
    assert "s3cr" not in str(caught.value)
    with pytest.raises(InvalidTable) as refused:
        structure(WebArchive, dict(options), "galleries.sources.https")
    assert any(f"galleries.sources.https.{field}" in problem for problem in refused.value.problems)
    assert "s3cr" not in str(refused.value)


def test_headers_are_not_shown() -> None:
    source = WebArchive(headers={"example.com": {"Authorization": "s3cret"}})
    assert "s3cret" not in repr(source)
    assert "s3cret" not in str(source)


# ---- directories


async def test_a_directory_is_copied_as_it_is_but_for_what_others_might_do(ground: Ground, tmp_path: Path) -> None:
    source = release(tmp_path / "one")
    (source / "lib" / "two").symlink_to("one")
    (source / "lib" / "open").write_text("")
    (source / "lib" / "open").chmod(0o6777)
    (source / "lib" / "closed").mkdir()
    os.utime(source / "lib" / "one", (1_000_000_000, 1_000_000_000))
    (source / "lib").chmod(0o2777)
    os.utime(source / "lib", (1_100_000_000, 1_100_000_000))
    await ground.fetch(Directory(), uri_of(source))
    assert ground.names() == ["lib", "lib/closed", "lib/one", "lib/open", "lib/two", "run.sh"]
    assert os.readlink(ground.into / "lib" / "two") == "one"
    modes = {name: stat.S_IMODE((ground.into / name).stat().st_mode) for name in ("run.sh", "lib/open", "lib")}
    assert modes == {"run.sh": 0o755, "lib/open": 0o755, "lib": 0o755}
    assert (ground.into / "lib" / "one").stat().st_mtime == 1_000_000_000
    assert (ground.into / "lib").stat().st_mtime == 1_100_000_000
    assert {phase for phase, _, _ in ground.told} == {InstallPhase.UNPACKING}


async def test_what_may_grant_rights_is_not_copied_along(ground: Ground, tmp_path: Path) -> None:
    source = release(tmp_path / "one")
    try:
        os.setxattr(source / "lib" / "one", "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    await ground.fetch(Directory(), uri_of(source))
    assert os.listxattr(ground.into / "lib" / "one") == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../beside", "lib/../../beside", "../one/run.sh", "up/beside"])
async def test_a_link_that_leads_out_of_the_copy_is_refused(ground: Ground, tmp_path: Path, target: str) -> None:
    source = release(tmp_path / "one")
    (tmp_path / "beside").write_text("mine")
    (source / "up").symlink_to("lib/../..")
    (source / "link").symlink_to(target)
    with pytest.raises(UnsafeArchive, match="leads out") as caught:
        await ground.fetch(Directory(), uri_of(source))
    assert caught.value.member in ("link", "up")


@pytest.mark.parametrize("target", ["run.sh", "lib/../run.sh", "./lib", "nowhere", "link"])
async def test_one_that_stays_inside_or_leads_nowhere_is_kept(ground: Ground, tmp_path: Path, target: str) -> None:
    source = release(tmp_path / "one")
    (source / "link").symlink_to(target)
    await ground.fetch(Directory(), uri_of(source))
    assert os.readlink(ground.into / "link") == target


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_what_is_no_file_is_refused_by_its_name(ground: Ground, tmp_path: Path, kind: str) -> None:
    source = release(tmp_path / "one")
    place = source / "lib" / "odd"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "pipe":
            os.mkfifo(place)
        else:
            bound.bind(os.path.relpath(place))  # an absolute one may be too long
        with pytest.raises(UnsafeArchive, match="neither a file nor a directory nor a link") as caught:
            await ground.fetch(Directory(), uri_of(source))
    assert caught.value.member == "lib/odd"


async def test_a_directory_that_has_the_releases_in_it_is_refused(tmp_path: Path) -> None:
    source = release(tmp_path / "one")
    inside = Ground(source / "lib")
    for uri in (uri_of(source), uri_of(source) + "/lib/..", "dir:///"):
        with pytest.raises(InstallFailed, match="cannot hold itself"):
            await inside.fetch(Directory(), uri)
        assert inside.names() == []


@pytest.mark.parametrize("limits", [{"max_files": 2}, {"max_bytes": 5}])
async def test_a_directory_heeds_the_limits(ground: Ground, tmp_path: Path, limits: Mapping[str, int]) -> None:
    with pytest.raises(ArchiveTooLarge, match=next(iter(limits))):
        await ground.fetch(Directory(), uri_of(release(tmp_path / "one")), limits=UnpackLimits(**limits))


async def test_directories_inside_each_other_without_end_are_refused(ground: Ground, tmp_path: Path) -> None:
    source = release(tmp_path / "one")
    before = os.getcwd()
    try:
        os.chdir(source)
        for _ in range(400):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    with pytest.raises(InstallFailed, match="directories inside each other"):
        await ground.fetch(Directory(), uri_of(source))


@pytest.mark.parametrize("what", [{"sha256": SHA256}, {"verification": {"key": "x"}}])
async def test_what_a_directory_cannot_prove_is_not_claimed(ground: Ground, tmp_path: Path, what: Any) -> None:
    source = release(tmp_path / "one")
    assert Directory().proof(uri_of(source), sha256=None, verification={})
    assert Directory().proof(uri_of(source), **{"sha256": None, "verification": {}, **what}) is None
    with pytest.raises(InstallFailed):
        await ground.fetch(Directory(), uri_of(source), **what)
    assert ground.names() == []


async def test_a_directory_that_is_none_is_said(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing", "file/below"):
        with pytest.raises(DownloadFailed, match="no such directory") as caught:
            await ground.fetch(Directory(), uri_of(tmp_path / name))
        assert not caught.value.temporary


async def test_a_copy_of_one_large_file_heeds_its_cancellation(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = release(tmp_path / "one")
    with (source / "large").open("wb") as file:
        file.truncate(50_000_000)
    monkeypatch.setattr(_copying, "CHUNK", 1000)
    await _cancelled_at_the_first_report(ground, Directory(), uri_of(source), InstallPhase.UNPACKING, 50_000_000)


async def _cancelled_at_the_first_report(
    ground: Ground, source: GallerySource, uri: str, phase: InstallPhase, total: int
) -> None:
    """Fetch, and cancel it in *phase*: it must not go on to its end. What reports waits until it is cancelled."""
    token, cancelled = trio.lowlevel.current_trio_token(), threading.Event()
    last = 0

    def report(now: InstallPhase, done: int, _: int | None) -> None:
        nonlocal last
        if now is phase:
            last = done
            if not cancelled.is_set():
                token.run_sync_soon(cancel)
                assert cancelled.wait(10)

    def cancel() -> None:
        scope.cancel()
        cancelled.set()

    with trio.CancelScope() as scope:
        await ground.fetch(source, uri, report=report)
    assert scope.cancelled_caught
    assert 0 < last < total


# ---- archives on disk


async def test_hashing_heeds_its_cancellation(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ground.folder / "archive.tar.gz"
    path.write_bytes(ARCHIVE)
    monkeypatch.setattr(_gallery_sources, "CHUNK", 1000)
    await _cancelled_at_the_first_report(ground, ArchiveFile(), path.as_uri(), InstallPhase.VERIFYING, len(ARCHIVE))
    assert ground.names() == []


async def test_a_name_with_everything_in_it_is_found(ground: Ground) -> None:
    path = ground.folder / "caf\u00e9 #1 100%41 ?.tar.gz"
    path.write_bytes(ARCHIVE)
    fetched = await ground.fetch(ArchiveFile(), path.as_uri(), sha256=SHA256.upper())
    assert fetched.digest == f"sha256:{SHA256}"
    assert ground.names() == ["data", "run.sh"]


@pytest.mark.parametrize("end", ["?x", "#x"])
async def test_what_would_be_left_out_of_a_name_is_refused(ground: Ground, end: str) -> None:
    path = ground.folder / "archive.tar.gz"
    path.write_bytes(ARCHIVE)
    with pytest.raises(DownloadFailed, match="%3F"):
        await ground.fetch(ArchiveFile(), path.as_uri() + end)


@pytest.mark.parametrize("host", ["elsewhere", "127.0.0.1"])
async def test_a_file_of_another_machine_is_none(ground: Ground, host: str) -> None:
    with pytest.raises(DownloadFailed, match="this machine"):
        await ground.fetch(ArchiveFile(), f"file://{host}/archive.tar.gz")


@pytest.mark.parametrize("kind", ["pipe", "directory", "nothing", "device"])
async def test_what_is_no_file_is_not_waited_for(ground: Ground, kind: str) -> None:
    path = ground.folder / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    with trio.fail_after(5), pytest.raises(DownloadFailed):
        await ground.fetch(ArchiveFile(), path.as_uri())
    with trio.fail_after(5), pytest.raises(DownloadFailed):
        await ArchiveFile().digest(path.as_uri())


@pytest.mark.parametrize("how", ["replaced", "written to"])
async def test_one_that_is_changed_after_it_was_hashed_is_not_taken_for_proven(ground: Ground, how: str) -> None:
    path = ground.folder / "archive.tar.gz"
    path.write_bytes(ARCHIVE)
    other = gzip.compress(tar([RUN, member("other", NOISE)]), 1)

    def report(phase: InstallPhase, done: int, total: int | None) -> None:
        if phase is InstallPhase.VERIFYING and done == total:
            if how == "replaced":
                (ground.folder / "new").write_bytes(other)
                (ground.folder / "new").replace(path)
            else:
                path.write_bytes(other)

    with pytest.raises(InstallFailed, match="it was changed while it was read"):
        await ground.fetch(ArchiveFile(), path.as_uri(), sha256=SHA256, report=report)


# ---- web servers


async def test_headers_are_sent_to_their_host_and_to_nobody_else(ground: Ground) -> None:
    async with http_server() as server, http_server() as other:
        other.pages["/archive"] = Page(body=ARCHIVE)
        server.pages["/archive"] = Page(redirect=f"{other.url}/archive")
        host, elsewhere = (each.url.removeprefix("http://") for each in (server, other))
        source = WebArchive(
            headers={
                host.upper(): {"Authorization": "s3cret", "X-Token": "s3cret"},
                "example.com": {"X-Other": "s3cret"},
            }
        )
        await ground.fetch(source, f"{server.url}/archive")
        ((_, _, sent),) = server.requests
        assert (sent["authorization"], sent["x-token"]) == ("s3cret", "s3cret")
        ((_, _, passed_on),) = other.requests
        assert "s3cret" not in passed_on.values()
        # For the whole host, whatever the port.
        await ground.fetch(WebArchive(headers={"127.0.0.1": {"X-Token": "s3cret"}}), f"http://{elsewhere}/archive")
        assert other.requests[-1][2]["x-token"] == "s3cret"


async def test_no_secret_is_in_an_error(ground: Ground) -> None:
    async with http_server() as server:
        server.pages["/page"] = Page(body=b"<html>" * 100)
        host = server.url.removeprefix("http://")
        source = WebArchive(headers={host: {"X-Token": "s3cret"}}, retries=0)
        for path in ("/missing", "/page"):
            with pytest.raises(InstallFailed) as caught:
                await ground.fetch(source, f"http://user:s3cret@{host}{path}?token=s3cret")
            assert "s3cret" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
            assert path in str(caught.value)


async def test_a_page_instead_of_an_archive_is_said_and_not_kept(ground: Ground) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=b"\xef\xbb\xbf\r\n<!doctype html><title>Please log in</title>" * 20)
        with pytest.raises(InstallFailed, match="it is a page for a browser"):
            await ground.fetch(WebArchive(), f"{server.url}/archive")
        server.pages["/archive"] = Page(body=ARCHIVE)
        await ground.fetch(WebArchive(), f"{server.url}/archive")
        assert ground.names() == ["data", "run.sh"]


@pytest.mark.parametrize("length", [True, False])
async def test_more_than_can_unpack_to_what_is_allowed_is_not_downloaded(ground: Ground, length: bool) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=ARCHIVE, length=length)
        with pytest.raises(ArchiveTooLarge):
            await ground.fetch(WebArchive(), f"{server.url}/archive", limits=UnpackLimits(max_bytes=1000))
    assert InstallPhase.UNPACKING not in {phase for phase, _, _ in ground.told}


async def test_a_fetch_goes_on_where_a_failed_one_ended(ground: Ground) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=ARCHIVE, cut_after=[1_000_000, 0])
        with pytest.raises(DownloadFailed):
            await ground.fetch(WebArchive(retries=1), f"{server.url}/archive", sha256=SHA256)
        await ground.fetch(WebArchive(retries=1), f"{server.url}/archive", sha256=SHA256)
        assert server.sent == len(ARCHIVE)
        assert server.ranges()[-1] == "bytes=1000000-"
        assert (ground.into / "data").read_bytes() == NOISE


@pytest.mark.parametrize("sha256", [SHA256, None])
async def test_one_that_was_cancelled_while_it_was_unpacked_is_not_downloaded_again(
    ground: Ground, sha256: str | None
) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=ARCHIVE)
        uri = f"{server.url}/archive"
        await _cancelled_at_the_first_report(ground, WebArchive(), uri, InstallPhase.UNPACKING, len(ARCHIVE))
        await ground.fetch(WebArchive(), uri, sha256=sha256)
        assert server.sent == len(ARCHIVE)
        assert (ground.into / "data").read_bytes() == NOISE


async def test_one_that_does_not_have_its_digest_is_thrown_away(ground: Ground) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=ARCHIVE)
        with pytest.raises(DigestMismatch):
            await ground.fetch(WebArchive(), f"{server.url}/archive", sha256="0" * 64)
    assert list(ground.scratch.iterdir()) == []


async def stalls(server: HttpServer) -> str:
    server.pages["/archive"] = Page(body=ARCHIVE, stall_after=[500_000])
    return f"{server.url}/archive"


async def test_a_server_that_says_nothing_more_is_not_waited_for(ground: Ground) -> None:
    async with http_server() as server:
        await ground.fetch(WebArchive(stall_timeout=0.2), await stalls(server), sha256=SHA256)
        assert server.ranges() == [None, "bytes=500000-"]


@pytest.mark.parametrize("source", [ArchiveFile(), WebArchive()], ids=lambda source: type(source).__name__)
def test_only_a_digest_proves_an_archive(source: GallerySource) -> None:
    for verification in ({}, {"key": "x"}):
        assert source.proof("https://example.com/x.tar", sha256=None, verification=verification) is None
        assert SHA256 in str(source.proof("https://example.com/x.tar", sha256=SHA256, verification=verification))


async def test_an_archive_of_a_gallery_that_signs_needs_a_digest(ground: Ground) -> None:
    async with http_server() as server:
        server.pages["/archive"] = Page(body=ARCHIVE)
        uri = f"{server.url}/archive"
        with pytest.raises(InstallFailed, match="signatures"):
            await ground.fetch(WebArchive(), uri, verification={"key": "x"})
        assert server.requests == []
        await ground.fetch(WebArchive(), uri, verification={"key": "x"}, sha256=SHA256)
