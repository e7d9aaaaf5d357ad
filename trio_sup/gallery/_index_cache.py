"""Copies of indexes on disk, for when a gallery cannot be reached, and so that not every start has to ask.

Of each index there are two files, named by the digest of the gallery's address: ``.yaml`` is what was read, as it is;
``.json`` is what was made of it, to be had without a YAML parser. The second is used only while its digests say that
it is whole and belongs to the first; so the two need not change in one step, and a damaged one is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from ..errors import InvalidValue
from ._gallery import Gallery
from ._index import FIELDS, Index, IndexEntry, parse_index
from ._index_values import NotAnIndex
from ._plain_file import read_plain_file

MOST_BYTES = 64 * 2**20
"""Bytes of an index; the one of LocalAI has less than one MiB."""
MOST_PARSED = 4 * MOST_BYTES  # every merged key is written out
FORM = 1
"""To be raised when another version would make something else of the same YAML."""
_LEFTOVER_AGE = 3600.0  # seconds after which an unfinished file has lost its writer
_UNFINISHED = ".unfinished-"


@attrs.frozen(kw_only=True)
class Validators:
    """What a server wants to see again to tell whether its file has changed.

    Attributes:
        address: What they belong to.
        etag: As the server gave it.
        modified: When it last changed, as the server wrote it.
    """

    address: str
    etag: str | None = None
    modified: str | None = None


@attrs.frozen(kw_only=True)
class Copy:
    """An index that was read.

    Attributes:
        digest: SHA-256 of the YAML, in hex digits.
        current_at: When it was last known to be what the gallery offers; seconds since the epoch.
    """

    index: Index
    digest: str
    current_at: float
    validators: Validators | None = None


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@attrs.frozen
class IndexCache:
    """The copies in one directory, which is made when it is needed. Every method blocks; for a thread.

    Several processes may use one directory at once: files are only ever replaced whole.
    """

    directory: Path

    def load(self, gallery: Gallery, *, checkpoint: Callable[[], None] = lambda: None) -> Copy | None:
        """The copy of *gallery*'s index; None if there is none that can be used."""
        yaml = self._path(gallery, ".yaml")
        try:
            content, status = read_plain_file(yaml, MOST_BYTES)
        except OSError:
            return None
        digest = digest_of(content)
        index, validators = self._parsed(gallery, digest)
        if index is None:
            try:
                index = parse_index(content, gallery, checkpoint=checkpoint)
            except NotAnIndex:
                return None
            with contextlib.suppress(OSError):
                self._write_parsed(gallery, index, digest, validators)
        return Copy(index=index, digest=digest, current_at=status.st_mtime, validators=validators)

    def store(self, gallery: Gallery, content: bytes, copy: Copy) -> None:
        """Keep *content*, of which *copy* was made.

        Raises:
            OSError: It cannot be written; an earlier copy is still there.
        """
        # Both private: what another user could change here would be installed.
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._sweep()
        _replace(self._path(gallery, ".yaml"), content, at=copy.current_at)
        self._write_parsed(gallery, copy.index, copy.digest, copy.validators)

    def confirm(self, gallery: Gallery, at: float) -> None:
        """Note that the copy is what the gallery offers *at* this instant (seconds since the epoch)."""
        with contextlib.suppress(OSError):
            os.utime(self._path(gallery, ".yaml"), (at, at))

    def _path(self, gallery: Gallery, ending: str) -> Path:
        return self.directory / (digest_of(gallery.url.encode()) + ending)

    def _parsed(self, gallery: Gallery, digest: str) -> tuple[Index | None, Validators | None]:
        try:
            head, _, body = read_plain_file(self._path(gallery, ".json"), MOST_PARSED)[0].partition(b"\n")
            said = json.loads(head)
            if (said["form"], said["yaml"], said["body"]) != (FORM, digest, digest_of(body)):
                return None, None
            validators = said["validators"]
            return _index_from(json.loads(body), gallery), validators and Validators(**validators)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None, None

    def _write_parsed(self, gallery: Gallery, index: Index, digest: str, validators: Validators | None) -> None:
        body = json.dumps(_table_from(index), separators=(",", ":")).encode()
        head = {
            "form": FORM,
            "yaml": digest,
            "body": digest_of(body),
            "validators": validators and attrs.asdict(validators),
        }
        _replace(self._path(gallery, ".json"), json.dumps(head).encode() + b"\n" + body)

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        with contextlib.suppress(OSError):
            for path in self.directory.glob(f"{_UNFINISHED}*"):
                if time.time() - path.lstat().st_mtime > _LEFTOVER_AGE:
                    path.unlink(missing_ok=True)


def _table_from(index: Index) -> dict[str, Any]:
    entries = [{field: value for field in FIELDS if (value := getattr(entry, field))} for entry in index.entries]
    return {"entries": entries, "problems": index.problems}


def _index_from(table: dict[str, Any], gallery: Gallery) -> Index:
    entries = tuple(IndexEntry(gallery=gallery, **entry) for entry in table["entries"])
    if not entries:
        raise InvalidValue(entries, "an index has entries")
    return Index(entries=entries, problems=tuple(table["problems"]))


def _replace(path: Path, content: bytes, *, at: float | None = None) -> None:
    opened, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with open(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(opened)
        if at is not None:
            os.utime(unfinished, (at, at))
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
