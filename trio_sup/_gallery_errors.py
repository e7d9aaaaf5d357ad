"""What can go wrong with galleries and releases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from ._wording import did_you_mean
from .errors import TrioSupError


@attrs.define(slots=False, eq=False)
class GalleryUnavailable(TrioSupError):
    """No source of a gallery's index could be read, and there is no earlier copy.

    Attributes:
        reasons: For each source that was tried, its address and what went wrong.
    """

    gallery: str
    reasons: Sequence[str]

    def __str__(self) -> str:
        return f"the gallery {self.gallery!r} cannot be read: " + "; ".join(self.reasons)


@attrs.define(slots=False, eq=False)
class UnknownEntry(TrioSupError):
    """No gallery has a backend of this name that fits this machine.

    Attributes:
        known: Names that there are.
        why: What is the matter, if it is there and cannot be used here; or which galleries could not be asked.
    """

    name: str
    known: Sequence[str] = ()
    why: str = ""

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        hint = self.why or near or "`trio-sup gallery list` shows what there is"
        return f"no gallery has a backend {self.name!r}: {hint}"


@attrs.define(slots=False, eq=False)
class UnknownRelease(TrioSupError):
    """Nothing of this name is installed."""

    name: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        known = f"installed are {', '.join(self.known)}" if self.known else "nothing is installed"
        return f"{self.name!r} is not installed: {near or known}"


@attrs.define(slots=False, eq=False)
class UnknownSource(TrioSupError):
    """No plugin fetches addresses of this kind."""

    uri: str
    scheme: str
    known: Sequence[str]

    def __str__(self) -> str:
        hint = f"known are {', '.join(sorted(self.known))}"
        if self.scheme in ("oci", "ocifile"):
            hint = "install the plugin for it: pip install trio-sup-oci"
        return f"{self.uri}: nothing here fetches {self.scheme!r} addresses; {hint}"


@attrs.define(slots=False, eq=False)
class ReleaseInUse(TrioSupError):
    """It runs under somebody else's supervision, so it was left as it is.

    Attributes:
        holders: Who uses it, for people.
    """

    name: str
    holders: Sequence[str]

    def __str__(self) -> str:
        return f"{self.name} is in use by {', '.join(self.holders)}. Stop it there first."


@attrs.define(slots=False, eq=False)
class InstallFailed(TrioSupError):
    """A release could not be installed; what was there before is untouched. Base of the reasons below.

    Attributes:
        what: The backend, or the address.
        why: What went wrong, for people.
    """

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} could not be installed: {self.why}"


@attrs.define(slots=False, eq=False)
class DownloadFailed(InstallFailed):
    """It could not be fetched, although that was tried several times. What arrived is kept, and the next try goes on
    from there where the server allows it.

    Attributes:
        temporary: Trying again later may help.
    """

    temporary: bool = True

    def __str__(self) -> str:
        return f"{self.what} could not be fetched: {self.why}"


@attrs.define(slots=False, eq=False)
class NotProven(InstallFailed):
    """Integrity is required, and nothing proves that this is what was meant; not a byte of it was written."""

    def __str__(self) -> str:
        return f"strict integrity: {self.what} is refused, since nothing proves what it is: {self.why}"


@attrs.define(slots=False, eq=False)
class DigestMismatch(InstallFailed):
    """What was fetched is not what was meant; it was thrown away."""

    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        return (
            f"{self.what} was refused: its digest is {self.found}, expected was {self.expected}. "
            "It was damaged on the way, or is not what the gallery meant."
        )


@attrs.define(slots=False, eq=False)
class UnsafeArchive(InstallFailed):
    """An archive wants to write where it must not, or what it must not; nothing of it stays.

    Attributes:
        member: The name in the archive.
    """

    member: str = ""

    def __str__(self) -> str:
        return f"{self.what} was refused: its member {self.member!r} {self.why}"


@attrs.define(slots=False, eq=False)
class ArchiveTooLarge(InstallFailed):
    """It would unpack to more than the limits allow; nothing of it stays."""

    def __str__(self) -> str:
        return f"{self.what} was refused: {self.why}. Raise the limit if that is meant."


@attrs.define(slots=False, eq=False)
class NotABackend(InstallFailed):
    """There is no ``run.sh`` in it.

    Attributes:
        directory: Where one was looked for, for people.
    """

    directory: Path | None = None


@attrs.define(slots=False, eq=False)
class NoGalleries(TrioSupError):
    """A release was asked for, and nobody said where releases are."""

    def __str__(self) -> str:
        return (
            "there is no directory of releases: give open_supervisor(galleries=trio_sup.Galleries(backends_dir=…)), "
            "or a table [galleries] in the configuration"
        )
