"""Installed backends as values: what a release is, what is recorded of it, and how far an installation has come."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from ._options import complaints_name_fields
from ._units import byte_count
from .errors import InvalidValue

if TYPE_CHECKING:
    from ._values import ProcessKey

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names of backends, running and installed ones. Source: spec S42."""
LONGEST_NAME = 128
RESERVED_SUFFIXES = (".install-tmp", ".install-backup", ".upgrade-tmp", ".backup")
"""Endings of directories that an installation by LocalAI leaves beside a release for a while. Source: spec 1.1."""


def check_release_name(name: object) -> str:
    """Refuse what may not become the name of a directory of releases; asked before any path is built from it.

    Raises:
        InvalidValue: It is empty, too long, has other characters than letters, digits and ``. _ + -``, does not begin
            with a letter or digit, or ends like the directory of an unfinished installation.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise InvalidValue(
            name,
            f"a backend's name starts with a letter or digit, then at most {LONGEST_NAME - 1} letters, digits and "
            ". _ + -",
        )
    if name.endswith(RESERVED_SUFFIXES):
        raise InvalidValue(name, f"a backend's name must not end in {', '.join(RESERVED_SUFFIXES)}")
    return name


@attrs.frozen(kw_only=True)
class Metadata:
    """What is recorded of a release in its ``metadata.json``; None is left out there.

    Attributes:
        name: What it was installed as.
        alias: Another name that means it, shared by the builds of one engine.
        meta_backend_for: Only in the directory of a meta: the release that it stands for.
        gallery_url: Of the gallery that it came from.
        installed_at: RFC 3339.
        version: What the gallery called it.
        uri: What was really fetched.
        digest: ``sha256:…`` of what was really fetched, where the source can tell.

    Source: the LocalAI worker's file (spec 7.6).
    """

    name: str | None = None
    alias: str | None = None
    meta_backend_for: str | None = None
    gallery_url: str | None = None
    installed_at: str | None = None
    version: str | None = None
    uri: str | None = None
    digest: str | None = None


@attrs.frozen(kw_only=True)
class Release:
    """An installed backend, under one of the names that mean it.

    Attributes:
        name: The name it is listed under: that of its directory, of a meta, or an alias.
        kind: ``"concrete"`` has the files; ``"meta"`` and ``"alias"`` stand for a concrete one.
        concrete: The name of the concrete release that has the files; None for a meta whose concrete one is gone.
        directory: Where the files are; None if there are none.
        system: It comes with the machine, cannot be changed, and has no metadata.
        metadata: What is recorded of it; for an alias, of the concrete one.
        problem: Why it cannot be used, or why its metadata could not be read; None if all is well.
    """

    name: str
    kind: Literal["concrete", "meta", "alias"] = "concrete"
    concrete: str | None
    directory: Path | None
    system: bool = False
    metadata: Metadata = attrs.field(factory=Metadata)
    problem: str | None = None

    @property
    def concrete_name(self) -> str:
        """The name whose install lock guards its files."""
        return self.concrete or self.name

    @property
    def runnable(self) -> bool:
        """Whether there is a ``run.sh`` to start."""
        return self.directory is not None and (self.directory / "run.sh").is_file()


class InstallPhase(enum.Enum):
    """What an installation is doing."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    UNPACKING = "unpacking"
    STARTING = "starting"
    DONE = "done"


@attrs.frozen(kw_only=True)
class InstallProgress:
    """How far an installation has come.

    Attributes:
        backend: What is installed.
        phase: What it does now.
        done_bytes: Bytes of this phase that are done, over all parts.
        total_bytes: How many there will be; None while that is not known.
        rate: Bytes per second, over the last few seconds; 0 while that is not known.
        detail: What is worked on or waited for, for people; may be empty.
    """

    backend: str
    phase: InstallPhase
    done_bytes: int = 0
    total_bytes: int | None = None
    rate: float = 0.0
    detail: str = ""

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1; None while the total is not known."""
        return min(self.done_bytes / self.total_bytes, 1.0) if self.total_bytes else None

    def __str__(self) -> str:
        done = f" {self.fraction:.0%}" if self.fraction is not None else ""
        return f"{self.backend}: {self.phase.value}{done}" + (f" ({self.detail})" if self.detail else "")


OnProgress = Callable[[InstallProgress], None]
"""Told how far an installation has come; must be quick."""


def _to_bound(value: object) -> int:
    result = byte_count(value)
    if result < 1:
        raise InvalidValue(value, "must be at least 1")
    return result


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class UnpackLimits:
    """How much one release may unpack to; what goes beyond is refused, and nothing of it stays.

    Args:
        max_bytes: Bytes of all files together; bytes, or text such as ``"32GiB"``.
        max_files: Files, directories and links together.
    """

    max_bytes: int = attrs.field(default=64 * 2**30, converter=_to_bound)
    max_files: int = attrs.field(default=1_000_000, converter=_to_bound)


AfterUpgrade = Literal["restart", "stop", "rolling"]
"""What becomes of the backends that run from a release when it is upgraded."""


@attrs.frozen(kw_only=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        release: What is installed now.
        previous: What was installed before.
        stopped: The backends that were stopped, and not started again; those that need them come last.
        restarted: Those that run from the new release now.
        failed: Those that were to be started again and could not be, each with the reason; a rolling upgrade leaves the
            ones after the first of them as they were.
    """

    release: Release
    previous: Release
    stopped: tuple[ProcessKey, ...] = ()
    restarted: tuple[ProcessKey, ...] = ()
    failed: Mapping[ProcessKey, Exception] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Deleted:
    """What a deletion did.

    Attributes:
        release: What was installed.
        stopped: The backends that ran from it, and were stopped; and last, those that need them.
    """

    release: Release
    stopped: tuple[ProcessKey, ...] = ()
