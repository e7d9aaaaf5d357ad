"""Where the contract of gallery sources has releases fetched to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ..._releases import InstallPhase, UnpackLimits
from ...strategies import Fetch, Fetched, GallerySource

FILES: Mapping[str, bytes] = {
    "run.sh": b"#!/bin/sh\nexec sleep 60\n",
    "empty": b"",
    "lib/deep/numbers": bytes(index * 7919 % 251 for index in range(2_000_000)),
    "lib/deep/with blanks": b"1",
    "lib/caf\u00e9": b"2",
}
"""The release that is offered. Those that begin with ``#!`` can be executed."""


@attrs.define
class FetchGround:
    """Where one address is fetched to, as an installer does it, with something precious beside it.

    Attributes:
        told: What was reported by the last fetch.
        on_report: Called with each phase, in whatever thread it is reported.
    """

    root: Path
    source: GallerySource
    uri: str
    sha256: str | None = None
    verification: Mapping[str, Any] = attrs.field(factory=dict)
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    told: list[tuple[InstallPhase, int, int | None]] = attrs.field(factory=list)
    on_report: Callable[[InstallPhase], None] = lambda phase: None
    _fetches: int = 0

    def __attrs_post_init__(self) -> None:
        for name in ("box", "scratch", "temporary", "here"):
            (self.root / name).mkdir(parents=True)
        (self.root / "box" / "precious").write_text("mine")

    @property
    def into(self) -> Path:
        return self.root / "box" / f"release-{self._fetches}"

    def _report(self, phase: InstallPhase, done: int, total: int | None) -> None:
        self.told.append((phase, done, total))
        self.on_report(phase)

    async def fetch(self) -> Fetched:
        """Fetch it into a new directory, with the same scratch each time; nothing else may be touched."""
        self._fetches += 1
        self.into.mkdir()
        self.told.clear()
        fetch = Fetch(
            uri=self.uri,
            into=self.into,
            scratch=self.root / "scratch",
            sha256=self.sha256,
            verification=self.verification,
            limits=self.limits,
            report=self._report,
        )
        before = self._outside()
        try:
            with _elsewhere(self.root / "here", self.root / "temporary"):
                fetched = await self.source.fetch(fetch)
        finally:
            assert self._outside() == before, "it writes where it must not: only into and scratch are its own"
        assert isinstance(fetched, Fetched)
        return fetched

    def _outside(self) -> Mapping[str, bytes | None]:
        own = (self.into, self.root / "scratch")
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
            if not any(path.is_relative_to(each) for each in own)
        }

    @property
    def files(self) -> Mapping[str, bytes]:
        """What is there now, by path."""
        return {str(path.relative_to(self.into)): path.read_bytes() for path in self.into.rglob("*") if path.is_file()}

    def downloaded(self) -> set[tuple[int, int]]:
        """Size and time of the last change of each file in scratch, whatever it is called by now."""
        found = [path.stat() for path in (self.root / "scratch").rglob("*") if path.is_file()]
        return {(status.st_size, status.st_mtime_ns) for status in found}

    def check_is_whole(self) -> None:
        assert self.files == FILES, "the release is not what was offered"
        assert os.access(self.into / "run.sh", os.X_OK), "run.sh cannot be executed any more"

    def check_is_empty(self) -> None:
        assert list(self.into.iterdir()) == [], "what must not be used is unpacked all the same"


@contextmanager
def _elsewhere(here: Path, temporary: Path) -> Iterator[None]:
    """For the length of the block, the working directory and the one for temporary files are these."""
    before, environment = os.getcwd(), os.environ.get("TMPDIR")
    os.chdir(here)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    try:
        yield
    finally:
        os.chdir(before)
        tempfile.tempdir = None
        if environment is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = environment
