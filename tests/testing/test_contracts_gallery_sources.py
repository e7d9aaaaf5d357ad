"""The built-in sources keep the contract; and bad ones do not."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tests.gallery.http_server import Page, http_server
from tests.gallery.tars import member, tar
from trio_sup.defaults._gallery_sources import ArchiveFile, Directory
from trio_sup.defaults._web_archive import WebArchive
from trio_sup.strategies import GallerySource
from trio_sup.testing.contracts import GallerySourceContract


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
