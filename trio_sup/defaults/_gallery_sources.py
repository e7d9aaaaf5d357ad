"""The built-in sources of releases: directories, and tar archives on disk and on web servers."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import trio

from .._gallery_errors import ArchiveTooLarge, DigestMismatch, DownloadFailed, InstallFailed, UnsafeArchive
from ..errors import InvalidValue
from ..hookspecs import hookimpl
from ..strategies import Fetch, Fetched, GallerySource, InstallPhase, complaints_name_fields, seconds_above_zero

CHUNK = 1024 * 1024
"""Bytes that are hashed at once."""


def _local_path(uri: str) -> Path:
    """The path that a ``file://`` or ``dir://`` address means."""
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise DownloadFailed(uri, "it names no absolute path of this machine", temporary=False)
    return Path(unquote(parts.path))


def _archive_proof(sha256: str | None) -> str | None:
    return f"its digest, sha256:{sha256}" if sha256 else None


def _refuse_verification(uri: str, verification: Mapping[str, Any], sha256: str | None) -> None:
    # A gallery that signs its images may have an archive too; its digest stands in the index, or nothing proves it.
    if verification and not sha256:
        raise InstallFailed(uri, "its gallery wants signatures, and an archive has none; only a sha256 proves it")


@attrs.frozen
class Directory:
    """A directory of this machine, which is copied. It is the user's own: nobody has to prove it."""

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """It is on this machine already. Source: the LocalAI worker checks no directory (spec 7.9)."""
        return "it is a directory of this machine"

    async def digest(self, uri: str) -> str | None:
        """A directory has none."""
        await trio.lowlevel.checkpoint()
        return None

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Copy the directory; links stay links, and must not lead out of it.

        Raises:
            DownloadFailed: There is no such directory.
            UnsafeArchive: Something in it is a device, or a link that leads out.
            ArchiveTooLarge: It goes beyond the limits.
            OSError: Something cannot be read or written.

        Cancellation: ends soon.
        """
        if fetch.sha256 is not None:
            raise InstallFailed(fetch.uri, "a directory has no digest; leave sha256 out")
        path = _local_path(fetch.uri)
        copying = _Copying(path, fetch)
        await trio.to_thread.run_sync(copying.run, limiter=trio.CapacityLimiter(1))
        return Fetched(uri=fetch.uri)


class _Copying:
    """One copy of a directory; runs in a thread."""

    def __init__(self, source: Path, fetch: Fetch) -> None:
        self._source = source
        self._fetch = fetch
        self._members = self._bytes = 0

    def run(self) -> None:
        if not self._source.is_dir():
            raise DownloadFailed(self._fetch.uri, "there is no such directory", temporary=False)
        if self._fetch.into.resolve().is_relative_to(self._source.resolve()):
            raise InstallFailed(self._fetch.uri, "the releases are kept inside of it; a directory cannot hold itself")
        self._copy(self._source, self._fetch.into)

    def _copy(self, source: Path, into: Path) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                trio.from_thread.check_cancelled()
                self._members += 1
                limits = self._fetch.limits
                if self._members > limits.max_files:
                    raise ArchiveTooLarge(self._fetch.uri, f"it has more than {limits.max_files} files (max_files)")
                path, copy = Path(entry.path), into / entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    self._copy_link(path, copy)
                elif stat.S_ISDIR(mode):
                    copy.mkdir()
                    self._copy(path, copy)
                    shutil.copystat(path, copy)
                elif stat.S_ISREG(mode):
                    self._bytes += entry.stat(follow_symlinks=False).st_size
                    if self._bytes > limits.max_bytes:
                        raise ArchiveTooLarge(self._fetch.uri, f"it has more than {limits.max_bytes} bytes (max_bytes)")
                    shutil.copyfile(path, copy)
                    shutil.copystat(path, copy)
                    copy.chmod((stat.S_IMODE(mode) & 0o755) | 0o600)
                    self._fetch.report(InstallPhase.UNPACKING, self._bytes, None)
                else:
                    raise UnsafeArchive(
                        self._fetch.uri,
                        "is neither a file nor a directory nor a link",
                        member=str(path.relative_to(self._source)),
                    )

    def _copy_link(self, path: Path, copy: Path) -> None:
        target = os.readlink(path)
        if os.path.isabs(target) or not path.resolve().is_relative_to(self._source.resolve()):
            raise UnsafeArchive(
                self._fetch.uri,
                f"is a link that leads out of it: {target}",
                member=str(path.relative_to(self._source)),
            )
        copy.symlink_to(target)


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
        return await _digest_of(_local_path(uri), uri, lambda done, total: None)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Hash the file, and unpack it if it is what was meant.

        Raises:
            DownloadFailed: It cannot be read.
            DigestMismatch: It is another one.
            UnsafeArchive, ArchiveTooLarge, InstallFailed: It must not, or cannot, be unpacked.
            OSError: The disk is full, and the like.

        Cancellation: ends soon.
        """
        _refuse_verification(fetch.uri, fetch.verification, fetch.sha256)
        path = _local_path(fetch.uri)
        found = await _digest_of(path, fetch.uri, lambda done, total: fetch.report(InstallPhase.VERIFYING, done, total))
        if fetch.sha256 is not None and found != f"sha256:{fetch.sha256.lower()}":
            raise DigestMismatch(fetch.uri, "its digest is another", expected=f"sha256:{fetch.sha256}", found=found)
        await _unpack(fetch, path)
        return Fetched(uri=fetch.uri, digest=found)


async def _digest_of(path: Path, what: str, report: Callable[[int, int], None]) -> str:
    def work() -> str:
        digest, done = hashlib.sha256(), 0
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DownloadFailed(what, "it is no file", temporary=False)
            size = os.fstat(file.fileno()).st_size
            while data := file.read(CHUNK):
                trio.from_thread.check_cancelled()
                digest.update(data)
                done += len(data)
                report(done, size)
        return f"sha256:{digest.hexdigest()}"

    try:
        return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))
    except OSError as error:
        raise DownloadFailed(what, f"it cannot be read: {error.strerror}", temporary=False) from error


async def _unpack(fetch: Fetch, path: Path) -> None:
    from ..gallery import unpack

    total = os.stat(path).st_size
    await unpack(
        fetch.into,
        path,
        fetch.uri,
        fetch.limits,
        report=lambda done: fetch.report(InstallPhase.UNPACKING, done, total),
    )


def _to_retries(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidValue(value, "expected a whole number, at least 0")
    return value


def _to_headers(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(text, str) and name.isascii() and text.isascii() and text.isprintable()
        for name, text in value.items()
    ):
        raise InvalidValue("(hidden)", "expected a table of names and ASCII texts")
    return dict(value)


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class WebArchive:
    """A tar archive of a web server.

    Args:
        stall_timeout: Seconds without a byte after which a try counts as broken off, or text such as ``"30s"``.
        retries: How many tries in a row may fail without a byte, after the first one.
        headers: Sent with every request, for example an ``Authorization``; never shown.

    Raises:
        InvalidValue: An option makes no sense.

    Source: 60 s is the LocalAI downloader's (spec 7.8).
    """

    stall_timeout: float = attrs.field(default=60.0, converter=seconds_above_zero)
    retries: int = attrs.field(default=5, converter=_to_retries)
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_to_headers, repr=False, hash=False)

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """Its digest, if somebody gave one."""
        return _archive_proof(sha256)

    async def digest(self, uri: str) -> str | None:
        """A web server does not tell."""
        await trio.lowlevel.checkpoint()
        return None

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Download the archive, going on from what an earlier try has left, and unpack it if it is what was meant.

        Raises:
            DownloadFailed, DigestMismatch: It cannot be had, or is another one.
            UnsafeArchive, ArchiveTooLarge, InstallFailed: It must not, or cannot, be unpacked.
            OSError: The disk is full, and the like.

        Cancellation: ends soon; what was downloaded is kept.
        """
        from ..gallery import download, http_client

        _refuse_verification(fetch.uri, fetch.verification, fetch.sha256)
        async with http_client() as client:
            downloaded = await download(
                client,
                fetch.uri,
                fetch.scratch / "archive",
                sha256=fetch.sha256,
                most=fetch.limits.max_bytes,
                headers=self.headers,
                stall_timeout=self.stall_timeout,
                retries=self.retries,
                report=lambda done, total: fetch.report(InstallPhase.DOWNLOADING, done, total),
            )
        try:
            await _unpack(fetch, downloaded.path)
        except InstallFailed:
            downloaded.path.unlink(missing_ok=True)  # no later try makes a better archive of it
            raise
        return Fetched(uri=fetch.uri, digest=f"sha256:{downloaded.sha256}")


@hookimpl(trylast=True)
def trio_sup_gallery_sources() -> Mapping[str, Callable[..., GallerySource]]:
    return {"dir": Directory, "file": ArchiveFile, "http": WebArchive, "https": WebArchive}
