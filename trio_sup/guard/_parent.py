"""The guard of the runner: the parent of the supervisor, and of whatever the supervisor leaves behind.

Standard library only, and quick to import: it does its work before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from ._proc import Delivery, Process, command_of, kill_exactly, scan, with_descendants

_FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_SECONDS = 5.0


def run_guarded(main: Callable[[int], int | None]) -> NoReturn:
    """Run ``sys.exit(main(<pid of the guard>))`` in a child, and leave nothing of it behind.

    Call it from the main thread of a process with no other threads and no children. The child is a session of its
    own, so that a Ctrl-C at the terminal reaches it once, through the guard; it has the signal mask and handlers of
    the caller. The guard passes INT, TERM, HUP, QUIT, USR1 and USR2 on and waits for every process that ends below
    it, as PID 1 of a container must. When the child has ended, it kills all its descendants until none is left, for
    at most 5 s (those that cannot be ended are named on stderr), and exits with the child's status: 128 + n if
    signal n ended it.

    If the guard is killed, the child goes on.

    Raises:
        SystemExit: In the child only. The guard never returns.
        OSError: The system refused to fork.
    """
    _become_subreaper()
    # An ignored SIGCHLD, which a launcher may hand down, would make the kernel throw statuses away.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # it must not be lost with a child that is killed
    guard = os.getpid()
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os.setsid()
        # A Ctrl-C from before the new session hit us both, and the guard will pass its own copy on.
        while signal.sigtimedwait(_FORWARDED, 0):
            pass
        os.close(tells)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.exit(main(guard))
    os.close(tells)
    os.read(told, 1)  # the end of file says that the child has its session; from here on signals are passed on
    os.close(told)
    status = _serve(child)
    _end_descendants()
    os._exit(128 - status if status < 0 else status)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become the reaper of orphaned descendants")


def _serve(child: int) -> int:
    """Pass signals on and reap, until *child* has ended; tells its exit code, or -n for signal n."""
    while True:
        number = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD}).si_signo
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is ours and not reaped yet, so the number is still its own
            continue
        reaped = _reap()
        if child in reaped:
            return reaped[child]


def _reap() -> dict[int, int]:
    """Collect every child that has ended: exit code, or -n for signal n, by pid."""
    reaped: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return reaped
        if pid == 0:
            return reaped
        reaped[pid] = os.waitstatus_to_exitcode(status)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _end_descendants() -> None:
    """Kill all descendants until none is left, or until the time for it is over."""
    give_up_at = time.monotonic() + _SWEEP_SECONDS
    left: dict[Process, str] = {}
    # Whatever loses its parent becomes our child at once: without a child there is no descendant either. A table of
    # processes could not prove as much, because a parent may end while it is being read.
    while _reap() or _has_children():
        try:
            left = {each: _kill(each) for each in _descendants()}
        except OSError as error:
            if time.monotonic() > give_up_at:
                _say(f"cannot look at the processes that are left: {error}")
        if time.monotonic() > give_up_at:
            for process, why in left.items():
                _say(f"could not end pid {process.pid} ({command_of(process.pid)}): {why}")
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _kill(process: Process) -> str:
    refused = kill_exactly(process, signal.SIGKILL) is Delivery.REFUSED
    return "not permitted to signal it" if refused else "still alive after SIGKILL"


def _descendants() -> list[Process]:
    processes = scan()
    children = [process for process in processes if process.ppid == os.getpid()]
    return [process for process in with_descendants(children, processes) if process.alive]


def _say(text: str) -> None:
    # Straight to the descriptor: nothing may fail here because a stream is closed or its reader gone.
    with contextlib.suppress(OSError):
        os.write(2, f"trio-sup: {text}\n".encode())
