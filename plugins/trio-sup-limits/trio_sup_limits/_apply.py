"""Applies limits to this process, and then becomes the program that is to be limited.

``python -I -S _apply.py OPTIONS -- EXECUTABLE NAME [ARGUMENT ...]``, where OPTIONS is JSON from `Limits`. Standard
library only; it ends with 126 if something was refused, 127 if there is no such program.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

_PR_SET_NO_NEW_PRIVS = 38
# What Python ignores at its start, and `subprocess` had restored before.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Refused(Exception):
    """A step that the system did not allow; its text names the step."""


def main(arguments: list[str]) -> NoReturn:
    """Never returns."""
    options, _, executable, *argv = arguments
    try:
        # As it was handed over: Python itself may have added a locale to os.environ.
        environment = initial_environment()
        apply(json.loads(options))
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(executable, argv, environment)  # a name without directory is looked up, as `subprocess` does
    except Refused as error:
        status, text = 126, str(error)
    except OSError as error:
        status = 127 if isinstance(error, FileNotFoundError) else 126
        text = f"cannot execute {executable}: {error.strerror}"
    os.write(2, f"trio-sup-limits: {text}\n".encode())
    os._exit(status)


def initial_environment() -> dict[bytes, bytes]:
    """The environment this process was executed with, byte for byte."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (entry.partition(b"=") for entry in file.read().split(b"\0"))
        return {name: value for name, equals, value in pairs if equals and name}


def apply(options: dict[str, Any]) -> None:
    """Apply everything; privileges are given up last, since the other steps may need them.

    Raises:
        Refused: The system did not allow a step.
    """
    # Loaded first: the limits may leave no room for it.
    libc = ctypes.CDLL(None, use_errno=True) if options.get("no_new_privileges") else None
    for name, (soft, hard) in options.get("rlimits", {}).items():
        step(name, resource.setrlimit, getattr(resource, name), (soft, hard))
    if "nice" in options:
        step("nice", os.setpriority, os.PRIO_PROCESS, 0, options["nice"])
    if "cpus" in options:
        step("cpus", os.sched_setaffinity, 0, options["cpus"])
    if "umask" in options:
        os.umask(options["umask"])
    if "groups" in options:
        step("the supplementary groups", os.setgroups, options["groups"])
    if "gid" in options:
        step("the group", os.setresgid, options["gid"], options["gid"], options["gid"])
    if "uid" in options:
        step("the user", os.setresuid, options["uid"], options["uid"], options["uid"])
    if libc is not None and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Refused(f"cannot set no_new_privileges: {os.strerror(ctypes.get_errno())}")


def step(what: str, call: Any, *arguments: Any) -> None:
    """Call the system; say what was refused, should it be."""
    try:
        call(*arguments)
    except (OSError, ValueError, OverflowError) as error:
        raise Refused(f"cannot set {what}: {getattr(error, 'strerror', None) or error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
