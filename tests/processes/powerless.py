"""A supervisor that may not end what it has started: root, but without the power to signal other users' processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def run_powerless(program: str, folder: Path, *arguments: str) -> str:
    """Run the Python *program* in *folder*, where any user may write; what it has printed.

    Where it prints ``kill PID``, that process is killed for it.
    """
    folder.chmod(0o777)
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:  # the folders that pytest keeps to itself
            parent.chmod(parent.stat().st_mode | 0o011)
    running = subprocess.Popen(
        ["setpriv", "--bounding-set", "-kill", sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = []
    try:
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(line)
            if line.startswith("kill"):
                os.kill(int(line.split()[1]), signal.SIGKILL)
    finally:
        running.kill()
        running.communicate()
    return "".join(lines)
