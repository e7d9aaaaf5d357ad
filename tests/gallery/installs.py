"""What tests of installations share: releases to install, sources of all kinds, an installer that uses them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_sup import Gallery
from trio_sup._gallery_errors import UnknownSource
from trio_sup.defaults._file_lock import FileLock
from trio_sup.defaults._gallery_sources import ArchiveFile, Directory
from trio_sup.gallery._catalogue import Catalogue
from trio_sup.gallery._exchange import Exchange, exchange
from trio_sup.gallery._installing import Installer
from trio_sup.gallery._store import OWN, Store
from trio_sup.strategies import Fetch, Fetched, GallerySource, InstallLock

REAL: Mapping[str, GallerySource] = {"dir": Directory(), "file": ArchiveFile()}

# Another file in each version: what belongs to none of them must not be mixed.
FILES = {"run.sh": "#!/bin/sh\nexec sleep 1000\n", "lib/a/b.txt": "b", "data": "x" * 50_000}


def write_version(directory: Path, version: str, files: Mapping[str, str] = FILES) -> Path:
    """Make *directory* a release that says in each of its files which version it is of."""
    for name, content in {**files, f"only-in-{version}": ""}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + f"# version {version}\n")
    (directory / "run.sh").chmod(0o755)
    return directory


def version_of(directory: Path, files: Mapping[str, str] = FILES) -> str:
    """The version of the release in *directory*; fails unless it is exactly one, and whole."""
    (marker,) = directory.glob("only-in-*")
    version = marker.name.removeprefix("only-in-")
    expected = {**files, marker.name: ""}
    found = {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "metadata.json"
    }
    assert found == {name: content + f"# version {version}\n" for name, content in expected.items()}
    return version


def write_archive(path: Path, directory: Path) -> Path:
    """A tar archive of what is in *directory*."""
    with tarfile.open(path, "w:gz") as archive:
        for each in sorted(directory.iterdir()):
            archive.add(each, each.name)
    return path


def write_member(path: Path, name: str, content: bytes = b"") -> Path:
    """A tar archive with one file of this name."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


@attrs.define(eq=False)
class Scripted:
    """A source that does what the test says, for addresses of the scheme ``test``."""

    files: Mapping[str, str] = attrs.field(factory=lambda: dict(FILES))
    proofs: Mapping[str, str] = attrs.field(factory=dict)
    digests: Mapping[str, str | Exception | None] = attrs.field(factory=dict)
    fail: Mapping[str, Exception] = attrs.field(factory=dict)
    during: Callable[[Fetch], Awaitable[None]] | None = None
    fetched: list[str] = attrs.field(factory=list)

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        return self.proofs.get(uri, "a signature" if verification else None)

    async def digest(self, uri: str) -> str | None:
        await trio.lowlevel.checkpoint()
        digest = self.digests.get(uri)
        if isinstance(digest, Exception):
            raise digest
        return digest

    async def fetch(self, fetch: Fetch) -> Fetched:
        self.fetched.append(fetch.uri)
        write_version(fetch.into, fetch.uri.rpartition("/")[2].replace(":", "-"), self.files)
        await trio.lowlevel.checkpoint()
        if self.during is not None:
            await self.during(fetch)
        if fetch.uri in self.fail:
            raise self.fail[fetch.uri]
        digest = self.digests.get(fetch.uri)
        return Fetched(uri=fetch.uri, digest=digest if isinstance(digest, str) else None)


def installer_of(
    backends: Path,
    *entries: Mapping[str, object],
    source: GallerySource | None = None,
    by: Exchange = exchange,
    lock: InstallLock | None = None,
    system_dir: Path | None = None,
    gallery: Mapping[str, Any] | None = None,
    **options: Any,
) -> Installer:
    """An installer for the gallery ``own`` with *entries*; *source* fetches ``test`` and ``oci`` addresses."""
    store = Store(backends, system_dir=system_dir, by=by)
    sources = {**REAL, **({"test": source, "oci": source} if source is not None else {})}

    def source_of(uri: str, scheme: str) -> GallerySource:
        if scheme not in sources:
            raise UnknownSource(uri, scheme, sorted(sources))
        return sources[scheme]

    index = backends.parent / f"{backends.name}.index.yaml"
    index.write_text(json.dumps(list(entries)))
    galleries = (Gallery(name="own", url=index.as_uri(), **(gallery or {})),) if entries else ()
    capability = options.pop("capability", "default")
    return Installer(
        store,
        source_of=source_of,
        catalogue=Catalogue(galleries, capability=capability, cache_dir=None, files_below=backends.parent),
        lock=lock or FileLock(store.locks_dir),
        capability=capability,
        **options,
    )


def leftovers(backends: Path) -> list[str]:
    """What is left of installations: boxes, trash, downloads."""
    own = backends / OWN
    return sorted(
        str(path.relative_to(own)) for name in ("work", "trash", "downloads") for path in (own / name).glob("*")
    )


def live(backends: Path) -> Sequence[str]:
    """The names of the directories of releases."""
    return sorted(path.name for path in backends.iterdir() if path.name != OWN) if backends.exists() else []
