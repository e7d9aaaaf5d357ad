"""The built-in sources keep the contract; and bad ones do not."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from tests.gallery.http_server import Page, http_server
from tests.gallery.tars import member, tar
from trio_sup.defaults._gallery_sources import ArchiveFile, Directory
from trio_sup.defaults._web_archive import WebArchive
from trio_sup.strategies import Fetch, Fetched, GallerySource, InstallPhase, UnpackLimits
from trio_sup.testing.contracts import GallerySourceContract

pytestmark = pytest.mark.slow


def packed(files: Mapping[str, bytes]) -> bytes:
    """An archive of *files*."""
    members = [member(name, data, mode=0o755 if data.startswith(b"#!") else 0o644) for name, data in files.items()]
    return gzip.compress(tar(members), 1)


class TestDirectory(GallerySourceContract):
    scheme = "dir"
    records_digests = False

    def make(self) -> GallerySource:
        return Directory()

    @asynccontextmanager
    async def offer(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        folder = self.directory / f"offer-{len(files)}"
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755 if data.startswith(b"#!") else 0o644)
        yield folder.as_uri().replace("file://", "dir://")

    @asynccontextmanager
    async def offer_nothing(self) -> AsyncIterator[str]:
        yield f"dir://{self.directory}/missing"


class TestArchiveFile(GallerySourceContract):
    scheme = "file"

    def make(self) -> GallerySource:
        return ArchiveFile()

    @asynccontextmanager
    async def offer(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        path = self.directory / f"offer-{len(files)}.tar.gz"
        path.write_bytes(packed(files))
        yield path.as_uri()

    @asynccontextmanager
    async def offer_nothing(self) -> AsyncIterator[str]:
        yield (self.directory / "missing").as_uri()


class TestWebArchive(GallerySourceContract):
    scheme = "http"
    resumes = True

    def make(self) -> GallerySource:
        return WebArchive(retries=1)

    @asynccontextmanager
    async def offer(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        async with http_server() as server:
            server.pages["/release.tar.gz"] = Page(body=packed(files))
            yield f"{server.url}/release.tar.gz"

    @asynccontextmanager
    async def offer_nothing(self) -> AsyncIterator[str]:
        async with http_server() as server:
            yield f"{server.url}/missing"


# ---- bad ones, each with a vice of its own


@attrs.frozen
class LooksFirst(ArchiveFile):
    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        return "it is there" if os.path.exists(urlsplit(uri).path) else None


@attrs.frozen
class UnpacksFirst(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        await ArchiveFile.fetch(self, attrs.evolve(fetch, sha256=None))
        return await ArchiveFile.fetch(self, fetch)


@attrs.frozen
class Trusts(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        return await ArchiveFile.fetch(self, attrs.evolve(fetch, sha256=None, verification={}))


@attrs.frozen
class WritesBeside(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        (fetch.into.parent / "notes").write_text("mine")
        return await ArchiveFile.fetch(self, fetch)


@attrs.frozen
class AddsToIt(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        (fetch.into / "notes").write_text("mine")
        return await ArchiveFile.fetch(self, fetch)


@attrs.frozen
class KnowsNoLimits(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        return await ArchiveFile.fetch(self, attrs.evolve(fetch, limits=UnpackLimits()))


@attrs.frozen
class Shields(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        fetch.report(InstallPhase.RESOLVING, 0, None)
        with trio.CancelScope(shield=True):
            await trio.sleep(1.2)
        return await ArchiveFile.fetch(self, fetch)


@attrs.frozen
class LeavesItOpen(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        opened = os.open(fetch.scratch, os.O_RDONLY)
        fetched = await ArchiveFile.fetch(self, fetch)
        os.close(opened)
        return fetched


@attrs.frozen
class TrustsWhatIsThere(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        copy = fetch.scratch / "copy.tar.gz"
        if not copy.exists():
            data = Path(urlsplit(fetch.uri).path).read_bytes()
            with copy.open("wb", buffering=0) as file:
                file.write(data[:1000])
                fetch.report(InstallPhase.DOWNLOADING, 1000, len(data))
                await trio.sleep(0.001)
                file.write(data[1000:])
        return await ArchiveFile.fetch(self, attrs.evolve(fetch, uri=copy.as_uri()))


@attrs.frozen
class GoesBack(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        fetch.report(InstallPhase.VERIFYING, 2**40, 2**40)
        return await ArchiveFile.fetch(self, fetch)


@attrs.frozen
class SaysNothingClear(ArchiveFile):
    async def fetch(self, fetch: Fetch) -> Fetched:
        try:
            return await ArchiveFile.fetch(self, fetch)
        except Exception as error:
            raise KeyError("release") from error


@attrs.frozen
class TellsAnother(ArchiveFile):
    async def digest(self, uri: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return f"sha256:{'1' * 64}"


IN_ANY_PHASE = "test_cancelled_in_any_phase_it_ends_soon_and_can_be_fetched_again"


@pytest.mark.parametrize(
    ("source", "test", "arguments"),
    [
        (LooksFirst, "test_it_says_at_once_what_would_prove_it_whatever_is_there", (None, {})),
        (UnpacksFirst, "test_what_has_another_digest_is_refused_and_not_unpacked", ()),
        (Trusts, "test_what_has_another_digest_is_refused_and_not_unpacked", ()),
        (Trusts, "test_what_its_gallery_signs_in_a_way_it_does_not_know_is_refused", ()),
        (WritesBeside, "test_it_fills_the_directory_with_exactly_the_release", ()),
        (AddsToIt, "test_it_fills_the_directory_with_exactly_the_release", ()),
        (KnowsNoLimits, "test_what_goes_beyond_the_limits_is_refused", ({"max_bytes": 1_000_000},)),
        (KnowsNoLimits, "test_what_goes_beyond_the_limits_is_refused", ({"max_files": 3},)),
        (Shields, IN_ANY_PHASE, (InstallPhase.RESOLVING,)),
        (LeavesItOpen, IN_ANY_PHASE, (InstallPhase.VERIFYING,)),
        (TrustsWhatIsThere, IN_ANY_PHASE, (InstallPhase.DOWNLOADING,)),
        (GoesBack, "test_what_it_reports_rises_and_ends_at_its_total", ()),
        (SaysNothingClear, "test_an_address_where_nothing_is_is_named", ()),
        (SaysNothingClear, "test_an_address_that_cannot_be_is_refused_in_words", ("/%00",)),
        (TellsAnother, "test_it_tells_a_digest_or_none", ()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_bad_one_is_caught(
    source: type[GallerySource], test: str, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    class OfIt(TestArchiveFile):
        def make(self) -> GallerySource:
            return source()

    contract = OfIt()
    contract.directory = tmp_path
    leaked = set(os.listdir("/proc/self/fd"))
    with pytest.raises((Exception, pytest.fail.Exception)):
        getattr(contract, test)(*arguments)
    for each in set(os.listdir("/proc/self/fd")) - leaked:
        try:
            os.close(int(each))
        except OSError:
            continue  # that of the listing
