"""Measuring in a process of its own, so that CPU time, memory and descriptors are the supervisor's alone."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
LEAVE_TIMEOUT = 30.0


def run_isolated(function: Callable[..., Awaitable[Any]], /, *, timeout: float, **arguments: Any) -> Any:
    """Run an async function of a module in a fresh process, under Trio.

    Args:
        timeout: Seconds after which it is interrupted, and killed if that does not help; what it supervises is ended
            either way.
        arguments: Passed on as JSON.

    Returns:
        What it returned, as JSON gives it back.

    Raises:
        subprocess.CalledProcessError: It failed; its own traceback is on stderr.
        subprocess.TimeoutExpired: It took too long.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    command = [sys.executable, "-m", __spec__.name, name, json.dumps(arguments)]
    # A session of its own, or Ctrl-C would reach it twice.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, cwd=ROOT)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)  # politely first: only it can end its plain children
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=LEAVE_TIMEOUT)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, name)
    return json.loads(output)


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    arguments = json.loads(sys.argv[2])
    result = trio.run(partial(getattr(importlib.import_module(module), function), **arguments))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
