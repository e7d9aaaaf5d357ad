"""Small releases for tests: a real server behind a run.sh, and a file that says which version it is."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.conftest import child_command

QUICK = "raw_h2"
"""The child that serves by default: it answers Health within milliseconds."""


def write_release(directory: Path, version: str = "1", *, child: str = QUICK, arguments: tuple[str, ...] = ()) -> Path:
    """Make *directory* a release whose ``run.sh`` runs one of the tests' children, in place of itself.

    It writes where it runs, and which version of its files it sees, before it serves.
    """
    directory.mkdir(parents=True)
    (directory / "version").write_text(version)
    command = shlex.join(child_command(child, *arguments))
    script = directory / "run.sh"
    script.write_text(f'#!/bin/sh\necho "version $(cat version) in $PWD"\nexec {command} "$@"\n')
    script.chmod(0o755)
    return directory
