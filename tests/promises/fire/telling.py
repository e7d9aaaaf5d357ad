"""A plugin that tells the one who is about to kill this program what it does, as it does it.

It writes lines to the descriptor that `FIRE` names, each a word and the monotonic nanosecond, and what belongs to it:

    here PID · spawns NUMBER · starting KEY PID · ready KEY · stopping KEY · gone KEY · guard NEW

"spawns" comes right before a fork, "starting" right after the launch; NUMBER counts the processes of this program.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from trio_sup import events, hookimpl
from trio_sup.events import Event

_descriptor = int(os.environ["FIRE"])
_spawned = 0


def tell(word: str, *rest: object) -> None:
    # One write each: a line is told as a whole, or not at all.
    os.write(_descriptor, f"{word} {time.monotonic_ns()} {' '.join(map(str, rest))}\n".encode())


def _audit(event: str, _: Any) -> None:
    global _spawned
    if event == "subprocess.Popen":
        _spawned += 1
        tell("spawns", _spawned)


def _observe(event: Event) -> None:
    match event:
        case events.BackendStarting():
            tell("starting", event.key, event.pid)
        case events.BackendReady():
            tell("ready", event.key)
        case events.BackendStopping():
            tell("stopping", event.key)
        case events.BackendGone():
            tell("gone", event.key)
        case events.GuardLost(replacement=int()):
            tell("guard", event.replacement)


@hookimpl
def trio_sup_observers() -> Sequence[Callable[[Event], None]]:
    """Tell what happens to backends and guards."""
    return [_observe]


tell("here", os.getpid())
sys.addaudithook(_audit)
