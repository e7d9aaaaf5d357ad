"""Runs from a release, as a backend does: in its directory, with a file open, and held by its supervisor.

Argument: the directory. For each line on stdin it says which versions it sees: in the open file, in one that it opens
now, and in one that it opens by its path.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trio_sup.gallery._store import Store

directory = Path(sys.argv[1])
with Store(directory.parent).hold(directory), open(directory / "data", encoding="utf-8") as file:
    os.chdir(directory)
    print("ready", flush=True)
    for _ in sys.stdin:
        file.seek(0)
        here = Path("lib/a/b.txt").read_text()
        versions = [text.split("# version ")[1].strip() for text in (file.read(), here)]
        print(*versions, len(os.listdir(".")), flush=True)
