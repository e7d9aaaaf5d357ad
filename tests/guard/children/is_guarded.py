"""A supervisor below the guard of the runner: `is_guarded.py <what to do> [command...]`.

It says "guard <pid>" and "supervisor <pid> <session> <number of blocked signals>", and then does that.
"""

import os
import signal
import subprocess
import sys

from trio_sup.guard._parent import run_guarded


def main(guard: int) -> int | None:
    what, *command = sys.argv[1:]
    if what == "die":  # before anything is flushed here
        os.kill(os.getpid(), signal.SIGKILL)
    blocked = len(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    print("guard", guard, flush=True)
    print("supervisor", os.getpid(), os.getsid(0), blocked, flush=True)
    if what == "exit":
        print("unflushed")
        return int(command[0])
    if what == "fail":
        raise RuntimeError("as asked")
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
    numbers = [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
    counts = dict.fromkeys(numbers, 0)
    awaited = {*numbers, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    print("counting", flush=True)
    while (number := signal.Signals(signal.sigwait(awaited))) != signal.SIGTERM:
        counts[number] += 1
        print("got", number.name, flush=True)
    print("counted", *(f"{number.name}={times}" for number, times in counts.items()), flush=True)
    return 0


if __name__ == "__main__":
    print("once")  # still in the buffer when the guard forks
    run_guarded(main)
