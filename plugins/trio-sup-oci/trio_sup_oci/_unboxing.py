"""From an image file to the files of its image: verify, and only then unpack."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import trio

from trio_sup import ArchiveTooLarge, DigestMismatch, DownloadFailed, NotProven
from trio_sup.strategies import Fetch, Fetched, InstallPhase, UnpackLimits

from ._boxes import Box, Folder, TarFile, gather, state_of
from ._decompressing import DAMAGED, decompressed, is_compressed
from ._errors import UnusableImage
from ._file_address import FileAddress, parse_address
from ._flattening import flatten, most_packed_bytes
from ._hashing import chunks_of, digest_of_file
from ._image_file import INDEXES, Part, digest_in, find_image

if TYPE_CHECKING:
    from ._source import ImageFiles

T = TypeVar("T")


async def digest_now(source: ImageFiles, uri: str) -> str:
    """The digest of the image in the file now."""
    address = parse_address(uri)
    limit = most_packed_bytes(UnpackLimits())

    def work() -> str:
        with _reading(uri):
            if address.path.is_dir():
                return digest_in(Folder(address.path), source.platform, address.digest, uri)
            with _opened(address.path, uri) as file:
                kept = gather(decompressed(file), INDEXES, uri, limit=limit)
            return digest_in(kept, source.platform, address.digest, uri)

    return await _in_thread(work)


async def unbox(source: ImageFiles, fetch: Fetch) -> Fetched:
    """Do what *fetch* asks for."""
    address = parse_address(fetch.uri)
    if fetch.verification:
        raise NotProven(fetch.uri, "its gallery wants signatures, and those of image files cannot be verified")
    fetch.report(InstallPhase.VERIFYING, 0, None)
    with closing(await _in_thread(functools.partial(_open, address, fetch))) as box:
        pin = address.digest
        if pin is None and fetch.sha256 and isinstance(box, Folder):
            pin = f"sha256:{fetch.sha256}"
        image = await find_image(box, source.platform, pin, fetch.uri)
        total = sum(part.size for part in image.parts)
        if total > most_packed_bytes(fetch.limits):
            raise _too_large(fetch, total)
        await _in_thread(functools.partial(_verify, box, image.parts, total, fetch))
        await flatten(fetch, [functools.partial(box.open, part.name) for part in image.parts], total)
        if not box.unchanged():
            raise _changed(fetch)
    return Fetched(uri=fetch.uri, digest=image.digest)


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadFailed(what, f"it cannot be read: {error.strerror or error}", temporary=False) from error


# ---- in a thread


def _open(address: FileAddress, fetch: Fetch) -> Box:
    """Verify the file as a whole, if its digest is given, and open it; decompressed first, if it is compressed."""
    with _reading(fetch.uri):
        if address.path.is_dir():
            return Folder(address.path)
        file = _opened(address.path, fetch.uri)
    with file:
        before = state_of(file)
        if fetch.sha256 is not None:
            _check_whole(file, fetch)
        if not is_compressed(file):
            box = TarFile(file, fetch.uri)
        else:
            # Without a name: scratch keeps what is in it, and no later try could use this.
            with tempfile.TemporaryFile(dir=fetch.scratch) as plain:
                _decompress(file, plain, fetch)
                box = TarFile(plain, fetch.uri)
        if state_of(file) != before:
            box.close()
            raise _changed(fetch)
        return box


def _opened(path: Path, what: str) -> BinaryIO:
    if path.exists() and not path.is_file():  # a pipe would have us wait for who writes to it
        raise DownloadFailed(what, "it is neither a file nor a directory", temporary=False)
    return open(path, "rb")


def _check_whole(file: BinaryIO, fetch: Fetch) -> None:
    total = file.seek(0, io.SEEK_END)
    file.seek(0)
    digest = digest_of_file(file, lambda done: fetch.report(InstallPhase.VERIFYING, done, total))
    if digest != f"sha256:{fetch.sha256}":
        raise DigestMismatch(fetch.uri, "it is another file", expected=f"sha256:{fetch.sha256}", found=digest)
    file.seek(0)


def _decompress(file: BinaryIO, to: BinaryIO, fetch: Fetch) -> None:
    written, most = 0, most_packed_bytes(fetch.limits)
    with _damage_is_clear(fetch.uri):
        for chunk in chunks_of(decompressed(file)):
            written += to.write(chunk)
            if written > most:
                raise _too_large(fetch, written)
    to.flush()


def _verify(box: Box, parts: Sequence[Part], total: int, fetch: Fetch) -> None:
    """Make sure that every layer is what it should be."""
    before = 0
    for part in parts:
        report = functools.partial(_report_after, fetch, before, total)
        with box.open(part.name) as file:
            found = digest_of_file(file, report)
        if found != part.digest and part.unpacked:
            # Some tools write the layers compressed, and their digests are still those of what is in them.
            with box.open(part.name) as file, _damage_is_clear(fetch.uri):
                found = digest_of_file(decompressed(file), functools.partial(_bound, fetch))
        if found != part.digest:
            raise DigestMismatch(fetch.uri, f"its layer {part.name} is damaged", expected=part.digest, found=found)
        before += part.size


def _bound(fetch: Fetch, done: int) -> None:
    if done > most_packed_bytes(fetch.limits):
        raise _too_large(fetch, done)


def _report_after(fetch: Fetch, before: int, total: int, done: int) -> None:
    fetch.report(InstallPhase.VERIFYING, before + done, total)


@contextmanager
def _damage_is_clear(what: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UnusableImage(what, f"it is damaged: {error}") from error


def _changed(fetch: Fetch) -> UnusableImage:
    return UnusableImage(fetch.uri, "it was changed while it was unpacked")


def _too_large(fetch: Fetch, size: int) -> ArchiveTooLarge:
    return ArchiveTooLarge(
        fetch.uri, f"its layers have {size} bytes or more, and may unpack to {fetch.limits.max_bytes} (max_bytes)"
    )
