"""Take the mechanism behind a promise out of a copy, and see that tests fail: ``python -m tests.mutations``.

Exits with 1 if a mutation survives, that is if its tests pass all the same, and names it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations import MUTATIONS, Mutation
from trio_sup.guard import _parent

ROOT = Path(__file__).parent.parent.parent
BOUND = 300.0
"""Seconds that the tests of one mutation may take; a hang is noticed too."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", help="only those of these, such as P1 P3")
    parser.add_argument("--list", action="store_true", help="name them, and do nothing")
    options = parser.parse_args()
    chosen = [each for each in MUTATIONS if not options.promises or each.promise in options.promises]
    if options.list:
        for each in chosen:
            print(each.promise, each.what)
        return 0
    # Without what ends them, processes are left: orphans become ours, and are ended after each mutation.
    _parent._become_subreaper()
    survivors = [each for each in chosen if not _is_killed(each)]
    for each in survivors:
        print(f"SURVIVES: {each.promise} without: {each.what}")
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed")
    return 1 if survivors else 0


def _is_killed(mutation: Mutation) -> bool:
    """Whether a test fails in a copy of the tree with *mutation*."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trio-sup-mutation-") as folder:
        copy = Path(folder)
        for name in ("trio_sup", "tests", "pyproject.toml", "README.md"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        file = copy / "trio_sup" / mutation.file
        file.write_text(mutated(file.read_text(), mutation))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy)},
                capture_output=True,
                text=True,
                timeout=BOUND,
            )
        except subprocess.TimeoutExpired:
            status, said = 1, "hangs"
        else:
            status, said = done.returncode, done.stdout.strip().rpartition("\n")[2]
            if status not in (0, 1):
                raise SystemExit(f"{mutation.what}: pytest says\n{done.stdout}{done.stderr}")
        finally:
            _parent._end_descendants()
    print(f"{mutation.promise} {mutation.what}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    return status == 1


def mutated(text: str, mutation: Mutation) -> str:
    """*text* with the mechanism taken out.

    Raises:
        ValueError: It is not there exactly once.
    """
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {mutation.old!r} {text.count(mutation.old)} times, not once")
    return text.replace(mutation.old, mutation.new)


if __name__ == "__main__":
    sys.exit(main())
