"""Fetching in tests, as an installer does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_sup.strategies import Fetch, Fetched, GallerySource, InstallPhase, UnpackLimits


@attrs.define
class Fetching:
    """One address, fetched as often as need be with the same scratch directory.

    Attributes:
        told: What was reported.
    """

    source: GallerySource
    uri: str
    directory: Path
    sha256: str | None = None
    verification: Mapping[str, Any] = attrs.field(factory=dict)
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    told: list[tuple[InstallPhase, int, int | None]] = attrs.field(factory=list)
    tries: int = 0

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @property
    def into(self) -> Path:
        return self.directory / f"into-{self.tries}"

    async def run(self) -> Fetched:
        self.tries += 1
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.into.mkdir()
        with trio.fail_after(60):
            return await self.source.fetch(
                Fetch(
                    uri=self.uri,
                    into=self.into,
                    scratch=self.scratch,
                    sha256=self.sha256,
                    verification=self.verification,
                    limits=self.limits,
                    report=lambda phase, done, total: self.told.append((phase, done, total)),
                )
            )

    @property
    def files(self) -> dict[str, bytes]:
        """What is there now, by path."""
        return {str(path.relative_to(self.into)): path.read_bytes() for path in self.into.rglob("*") if path.is_file()}

    @property
    def phases(self) -> list[InstallPhase]:
        """Each phase once, in its order."""
        return list(dict.fromkeys(phase for phase, _, _ in self.told))
