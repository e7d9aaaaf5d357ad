"""The built-in sources of releases: directories and tar archives of this machine, and those of web servers."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import attrs
import trio

from .._gallery_errors import DigestMismatch, DownloadFailed, InstallFailed
from ..hookspecs import hookimpl
from ..strategies import Fetch, Fetched, GallerySource, InstallPhase
from ._web_archive import WebArchive

CHUNK = 1024 * 1024
"""Bytes that are hashed at once."""

T = TypeVar("T")


def _local_path(uri: str) -> Path:
    """The path that a ``file://`` or ``dir://`` address means."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise DownloadFailed(uri, f"it is no address: {error}", temporary=False) from None
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise DownloadFailed(uri, "it names no absolute path of this machine", temporary=False)
    if "?" in uri or "#" in uri:
        raise DownloadFailed(uri, "in the address of a file, write %3F for ? and %23 for #", temporary=False)
    return Path(path)


def _archive_proof(sha256: str | None) -> str | None:
    return f"its digest, sha256:{sha256}" if sha256 else None


def _refuse_verification(fetch: Fetch, kind: str) -> None:
    # A gallery that signs its images may have an archive too; its digest stands in the index, or nothing proves it.
    if fetch.verification and not fetch.sha256:
        raise InstallFailed(fetch.uri, f"its gallery wants signatures, and {kind} has none")


@attrs.frozen
class Directory:
    """A directory of this machine, which is copied. It is the user's own: nobody has to prove it."""

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """It is on this machine already; unless its gallery wants signatures, or a digest.

        Source: the LocalAI worker checks no directory (spec 7.9).
        """
        return "it is a directory of this machine" if sha256 is None and not verification else None

    async def digest(self, uri: str) -> str | None:
        """A directory has none."""
        await trio.lowlevel.checkpoint()
        return None

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Copy the directory; links stay links, and must not lead out of it.

        Raises:
            DownloadFailed: There is no such directory, or something in it cannot be read.
            UnsafeArchive: Something in it is a device, or a link that leads out.
            ArchiveTooLarge: It goes beyond the limits.
            InstallFailed: A digest or a signature is wanted; or the releases are in the directory.
            OSError: The disk is full, and the like.

        Cancellation: ends soon.
        """
        from ..gallery import copy_directory

        if fetch.sha256 is not None:
            raise InstallFailed(fetch.uri, "a directory has no digest; leave sha256 out")
        _refuse_verification(fetch, "a directory")
        await copy_directory(
            fetch.into,
            _local_path(fetch.uri),
            fetch.uri,
            fetch.limits,
            report=lambda done: fetch.report(InstallPhase.UNPACKING, done, None),
        )
        return Fetched(uri=fetch.uri)


@attrs.frozen
class ArchiveFile:
    """A tar archive of this machine: plain, or compressed with gzip, xz or zstd."""

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """Its digest, if somebody gave one."""
        return _archive_proof(sha256)

    async def digest(self, uri: str) -> str | None:
        """Hash the file.

        Raises:
            DownloadFailed: It cannot be read.

        Cancellation: ends soon.
        """
        with await _in_thread(_open, _local_path(uri), uri) as file:
            return await _in_thread(_digest_of, file, uri, lambda done, total: None)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Hash the file, and unpack it if it is what was meant.

        Raises:
            DownloadFailed: It cannot be read.
            DigestMismatch: It is another one.
            UnsafeArchive, ArchiveTooLarge, InstallFailed: It must not, or cannot, be unpacked.
            OSError: The disk is full, and the like.

        Cancellation: ends soon.
        """
        from ..gallery import unpack

        _refuse_verification(fetch, "an archive")
        with await _in_thread(_open, _local_path(fetch.uri), fetch.uri) as file:
            before = _identity(file)
            found = await _in_thread(
                _digest_of, file, fetch.uri, lambda done, total: fetch.report(InstallPhase.VERIFYING, done, total)
            )
            if fetch.sha256 is not None and found != f"sha256:{fetch.sha256.lower()}":
                raise DigestMismatch(fetch.uri, "its digest is another", expected=f"sha256:{fetch.sha256}", found=found)
            file.seek(0)
            total = os.fstat(file.fileno()).st_size
            await unpack(
                fetch.into,
                file,
                fetch.uri,
                fetch.limits,
                report=lambda done: fetch.report(InstallPhase.UNPACKING, min(done, total), total),
            )
            if _identity(file) != before:
                raise InstallFailed(fetch.uri, "it was changed while it was read")
        return Fetched(uri=fetch.uri, digest=found)


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    # A limiter of its own: threads that wait for something else must not hold it up.
    return await trio.to_thread.run_sync(function, *args, limiter=trio.CapacityLimiter(1))


def _open(path: Path, what: str) -> BinaryIO:
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # for the caller to close
    except OSError as error:
        raise DownloadFailed(what, f"it cannot be read: {error.strerror}", temporary=False) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DownloadFailed(what, "it is no file", temporary=False)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # it may be a pipe


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    """What changes when somebody writes to the file."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest_of(file: BinaryIO, what: str, report: Callable[[int, int], None]) -> str:
    digest, done, size = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
    while True:
        trio.from_thread.check_cancelled()
        try:
            data = file.read(CHUNK)
        except OSError as error:
            raise DownloadFailed(what, f"it cannot be read: {error.strerror}", temporary=False) from error
        if not data:
            return f"sha256:{digest.hexdigest()}"
        digest.update(data)
        done += len(data)
        report(done, max(done, size))


@hookimpl(trylast=True)
def trio_sup_gallery_sources() -> Mapping[str, Callable[..., GallerySource]]:
    return {"dir": Directory, "file": ArchiveFile, "http": WebArchive, "https": WebArchive}
