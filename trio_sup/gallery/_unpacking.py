"""Unpacking what strangers have packed: nothing is written outside of one directory, and not too much inside."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import attrs
import trio

from .._gallery_errors import ArchiveTooLarge, InstallFailed
from .._releases import UnpackLimits
from ._decompressing import CHUNK, BadStream, Content, looks_like
from ._links import check_links
from ._member_writer import MemberWriter, Place
from ._tar_headers import check_end, open_archive

MOST_NAMES = 256 * 2**20
"""Bytes of all names and targets of links together; they are kept in memory until the end."""


@attrs.define(eq=False)
class Unpacker:
    """Unpacks one release into a directory: an archive, or the layers of an image, one over the other.

    Tar archives are read, plain or compressed with gzip, xz or zstd, told by their first bytes. Owners are not kept;
    modes are, without what others might write and without set-user-id and the like; times are.

    Args:
        into: The directory; nothing outside of it is written, whatever the archive says. What is in it after a failure
            is for the caller to throw away.
        what: What it is called in messages.
        limits: How much may be unpacked; of everything together.
        report: Told now and then how many bytes of the packed files have been read.
    """

    into: Path
    what: str
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    report: Callable[[int], None] = attrs.field(default=lambda count: None, kw_only=True)
    _bytes: int = attrs.field(default=0, init=False)
    _members: int = attrs.field(default=0, init=False)
    _names: int = attrs.field(default=0, init=False)
    _read_before: int = attrs.field(default=0, init=False)
    links: dict[Place, str] = attrs.field(factory=dict, init=False, repr=False)

    def unpack(self, file: BinaryIO, *, layer: bool = False) -> None:
        """Unpack *file*; blocks, and is meant for a thread of `trio.to_thread.run_sync`.

        Args:
            layer: It is a layer of an image: it may replace what earlier ones brought and, by whiteouts, remove it;
                links to absolute paths mean those inside the image; set-user-id bits are left out, not refused.

        Raises:
            UnsafeArchive: A member wants to write where it must not, or what it must not.
            ArchiveTooLarge: It goes beyond the limits.
            InstallFailed: It is damaged, or no archive.
            OSError: The disk is full, and the like.

        Cancellation: that of the task which waits for the thread is looked for often.
        """
        read = 0

        def note(count: int) -> None:
            nonlocal read
            read = count
            self.report(self._read_before + count)

        checkpoint = _cancel_check()
        writer = MemberWriter(self.into, self, layer=layer, checkpoint=checkpoint)
        try:
            content = Content(file, note, checkpoint)
            try:
                archive = open_archive(cast(BinaryIO, content))
                writer.take(archive)
            except tarfile.ReadError as error:
                if writer.members:
                    raise BadStream(f"it is damaged ({error})") from error
                raise BadStream(f"it is {looks_like(content.start)}") from error
            # Layers are proven by their digests, and some programs leave out the mark.
            check_end(archive, mark=not layer)
            self._drain(content)
        except (BadStream, tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, BadStream) else f"it is damaged ({error})"
            raise InstallFailed(self.what, why) from error
        finally:
            writer.close()
            self._read_before += read

    def _drain(self, content: Content) -> None:
        """Read what follows the end: checksums are there, and tell whether what came before was damaged."""
        left = self.limits.max_bytes
        while rest := content.read(CHUNK):
            left -= len(rest)
            if left < 0:
                raise ArchiveTooLarge(self.what, f"more than {self.limits.max_bytes} bytes follow its end (max_bytes)")

    def finish(self, *, lift: bool = False) -> None:
        """Look, now that everything is there, whether a link leads out; to be called once, after the last `unpack`.

        Args:
            lift: If everything is in one directory, and ``run.sh`` with it, leave that directory out first.

        Raises:
            UnsafeArchive: One does.
        """
        lifted = 1 if lift and _lift_only_directory(self.into) else 0
        check_links(
            self.into,
            ((place[0][lifted:], place[1], target) for place, target in self.links.items()),
            self.what,
            checkpoint=_cancel_check(),
        )

    def count_member(self, member: tarfile.TarInfo) -> None:
        self._members += 1
        if self._members > self.limits.max_files:
            raise ArchiveTooLarge(self.what, f"it has more than {self.limits.max_files} files (max_files)")
        self._names += len(member.name) + len(member.linkname)
        if self._names > MOST_NAMES:
            raise InstallFailed(self.what, f"the names in it have more than {MOST_NAMES} bytes")

    def count_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self.limits.max_bytes:
            raise ArchiveTooLarge(self.what, f"it unpacks to more than {self.limits.max_bytes} bytes (max_bytes)")


def _cancel_check() -> Callable[[], None]:
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # not in a thread of Trio's
        return lambda: None
    return trio.from_thread.check_cancelled


async def unpack(
    into: Path,
    archive: Path | BinaryIO,
    what: str,
    limits: UnpackLimits,
    *,
    report: Callable[[int], None] = lambda count: None,
) -> None:
    """Unpack *archive*, a file that may be open already, into the directory *into*, in a thread; see `Unpacker`.

    If everything is in one directory, and ``run.sh`` with it, that directory is left out.

    Raises:
        UnsafeArchive, ArchiveTooLarge, InstallFailed, OSError: As `Unpacker.unpack` does.

    Cancellation: ends soon; what was unpacked stays, for the caller to throw away.
    """

    def work() -> None:
        unpacker = Unpacker(into, what, limits, report=report)
        if isinstance(archive, Path):
            with archive.open("rb") as file:
                unpacker.unpack(file)
        else:
            unpacker.unpack(archive)
        unpacker.finish(lift=True)

    # A limiter of its own: threads that wait for something else must not hold it up.
    await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def _lift_only_directory(into: Path) -> bool:
    """Put the content of the only directory in *into*, if ``run.sh`` is in it, in its place; tells whether it did."""
    entries = list(into.iterdir())
    if len(entries) != 1 or entries[0].is_symlink() or not (entries[0] / "run.sh").is_file():
        return False
    (only,) = entries
    # A name that nothing inside has: one of its members may be called as it is.
    aside = into / f".{os.urandom(8).hex()}"
    only.rename(aside)
    for entry in aside.iterdir():
        entry.rename(into / entry.name)
    aside.rmdir()
    return True
