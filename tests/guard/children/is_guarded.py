"""A supervisor below the guard of the runner: `is_guarded.py <what to do> [command...]`.

It says "guard <pid>" and "supervisor <pid> <session>", and then does that.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from trio_sup.guard._parent import run_guarded


def main(guard: int) -> int | None:
    print("guard", guard, flush=True)
    print("supervisor", os.getpid(), os.getsid(0), flush=True)
    what, *command = sys.argv[1:]
    if what == "exit":
        print("unflushed", end="\n")
        return int(command[0])
    if what == "fail":
        raise RuntimeError("as asked")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":  # ends by itself, with all that was started still there
        subprocess.Popen(command, start_new_session=True)
        sys.stdin.readline()
        return 0
    if what == "count":
        return count_signals()
    leader = subprocess.Popen(command, start_new_session=True)
    print("leader", leader.pid, flush=True)
    while True:
        signal.pause()


def count_signals() -> int:
    """Say every signal; end at SIGTERM."""
    counts = dict.fromkeys((signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2), 0)

    def count(number: int, frame: FrameType | None) -> None:
        counts[signal.Signals(number)] += 1
        os.write(1, f"got {signal.Signals(number).name}\n".encode())  # `print` must not be entered twice

    for number in counts:
        signal.signal(number, count)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("counting", flush=True)
    try:
        while True:
            time.sleep(1000)
    finally:
        print("counted", *(f"{number.name}={times}" for number, times in counts.items()), flush=True)


if __name__ == "__main__":
    run_guarded(main)
