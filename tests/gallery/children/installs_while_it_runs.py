"""Supervises a backend that runs from a release, and puts one of two archives in the place of that over and over.

Arguments: the directory of backends, and the two archives.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import trio

import trio_sup
from trio_sup import BackendSpec, Galleries


async def main() -> None:
    backends, *archives = sys.argv[1:]
    galleries = Galleries(backends_dir=Path(backends), index=(), capability="default")
    async with trio_sup.open_supervisor(galleries=galleries) as sup:
        await sup.install(archives[0], name="engine")
        await sup.start(BackendSpec(name="engine", release="engine", grace=5, stop_policy="kill"))
        print("ready", flush=True)
        for turn in itertools.count(1):
            await sup.install(archives[turn % 2], name="engine", force=True)
            await sup.upgrade("engine", force=True)


trio.run(main)
