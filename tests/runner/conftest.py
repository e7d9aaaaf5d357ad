"""Fixtures of this room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def processes_with(text: str) -> list[str]:
    """Command lines of the processes that have *text* in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if text.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
        except OSError:
            continue  # it has ended meanwhile, or belongs to somebody else
    return found


@pytest.fixture
def nothing_of_it_survives(tmp_path: Path) -> Iterator[None]:
    """Afterwards there is no process that was started with `environment(tmp_path)`, directly or not."""
    yield
    assert processes_with(str(tmp_path)) == []
