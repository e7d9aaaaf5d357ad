"""What can go wrong with an image, beside what can go wrong with every release."""

from __future__ import annotations

import attrs

from trio_sup._gallery_errors import ArchiveTooLarge as ArchiveTooLarge
from trio_sup._gallery_errors import DigestMismatch as DigestMismatch
from trio_sup._gallery_errors import DownloadFailed as DownloadFailed
from trio_sup._gallery_errors import InstallFailed
from trio_sup._gallery_errors import NotProven as NotProven
from trio_sup.errors import TrioSupError


@attrs.define(slots=False, eq=False)
class UnusableImage(InstallFailed):
    """What is there is no image, or none that can be installed here."""


@attrs.define(slots=False, eq=False)
class UnusableCredentials(TrioSupError):
    """A file of credentials cannot be read, or a helper program gave no answer that can be used.

    Attributes:
        where: The file or the program.
    """

    where: str
    why: str

    def __str__(self) -> str:
        return f"credentials cannot be had from {self.where}: {self.why}"
