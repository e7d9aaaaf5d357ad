"""Installs what it is told to from the gallery it is told of, and says how it went; and at once if it must wait.

Arguments: the directory of backends, the gallery's index as JSON, how often, and the names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from tests.gallery.installs import installer_of
from trio_sup._releases import InstallPhase, InstallProgress


async def main() -> None:
    backends, index, times, *names = sys.argv[1:]
    installer = installer_of(Path(backends), *json.loads(Path(index).read_text()))
    fetched: list[str] = []
    waited: list[str] = []

    def report(progress: InstallProgress) -> None:
        if progress.phase is InstallPhase.UNPACKING:
            fetched.append(progress.backend)
        if progress.phase is InstallPhase.WAITING:
            if not waited:
                print(progress.detail, flush=True)
            waited.append(progress.detail)

    async def install(name: str) -> None:
        for _ in range(int(times)):
            await installer.install(name, force=int(times) > 1, report=report)

    print("ready", flush=True)
    sys.stdin.readline()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(install, name)
    print(json.dumps({"fetched": sorted(set(fetched)), "waited": waited}), flush=True)


trio.run(main)
