"""Platforms: the one of this machine, and which of those that an image is built for fits it best."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

import attrs

from trio_sup import InvalidValue

_ARCHITECTURES = {
    "x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "i386": "386", "i486": "386",
    "i586": "386", "i686": "386", "armv8l": "arm", "armv7l": "arm", "loongarch64": "loong64",
}  # fmt: skip
# What an image that names no variant was built for. Source: the OCI image index specification, platform variants.
_USUAL_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_NUMBERED = re.compile(r"v(\d{1,3})(?:\.(\d{1,3}))?")
_PLATFORM = re.compile(r"([a-z0-9]+)/([a-z0-9_]+)(?:/([a-z0-9.]+))?")


@attrs.frozen
class Platform:
    """What a program was built for, in the words of the Go project, as registries use them.

    Attributes:
        variant: Of the architecture: ``v7``; empty for the usual one.
    """

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def is_known(self) -> bool:
        """Whether it is one at all: what accompanies an image in its index says ``unknown``."""
        return "unknown" not in (self.os, self.architecture)

    def distance(self, offered: Platform) -> int | None:
        """How far *offered* is behind what this platform can do: 0 is the very same, None does not run here."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        usual = _USUAL_VARIANT.get(self.architecture, "")
        own, other = self.variant or usual, offered.variant or usual
        if own == other:
            return 0
        numbers = _number(own), _number(other)
        if numbers[0] is None or numbers[1] is None:
            return 1 if not offered.variant else None
        return numbers[0] - numbers[1] if numbers[1] < numbers[0] else None


def _number(variant: str) -> int | None:
    match = _NUMBERED.fullmatch(variant)
    return int(match[1]) * 1000 + int(match[2] or 0) if match else None


def host_platform(machine: str | None = None) -> Platform:
    """The platform of this machine.

    Args:
        machine: As ``uname -m`` says it; asked for if None.
    """
    machine = (platform.machine() if machine is None else machine).lower()
    if match := re.fullmatch(r"armv([5-7])[a-z]*", machine):
        return Platform("linux", "arm", f"v{match[1]}")
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def to_platform(value: object) -> Platform:
    """Read ``"linux/arm64"`` or ``"linux/arm/v7"``.

    Raises:
        InvalidValue: It is no platform.
    """
    if isinstance(value, Platform):
        return value
    match = _PLATFORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue(value, 'expected a platform, such as "linux/amd64" or "linux/arm/v7"')
    return Platform(match[1], match[2], match[3] or "")


def in_words(platforms: Iterable[Platform]) -> str:
    """The platforms, each once, for people."""
    return ", ".join(dict.fromkeys(map(str, platforms))) or "no platform at all"
