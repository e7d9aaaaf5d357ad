"""What can go wrong with an image, beside what can go wrong with every release."""

from __future__ import annotations

import attrs

from trio_sup import InstallFailed, TrioSupError


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
