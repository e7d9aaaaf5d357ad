"""One trial: start a program, kill it at its worst moment, and look for what is left."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.conftest import ROOT, child_command
from trio_sup.guard import _proc

WITHIN = 3_000_000
"""Nanoseconds after a spawn that count as "right after it"."""

BOUND = 2.0
"""Seconds after which nothing may be left."""

MARKS = ["plain", "grandchild", "own_group", "own_session", "ignoring", "stopped", "forking", "cleared", "daemon"]
MARKS += ["threaded_daemon", "cleared_grandchild", "shedding"]
SHEDS = ["cleared_daemon", "overwritten_daemon", "hidden_daemon"]
"""Kinds of descendants: those that every guard finds, and those that only the runner's does."""

MOMENTS = ("spawn", "stop", "ready", "guard")
GUARDS = ("helper", "parent")


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        moment: When the supervisor was killed: right after a spawn, inside a stop, while all was ready, or after its
            guard had been killed and replaced.
        exact: Whether it was that moment; what happens is a race.
        seconds: From the kill until nothing was left.
        left: What was left after 2 s, and anything else that was wrong; empty if the promise was kept.
    """

    number: int
    moment: str
    guard: str
    exact: bool
    seconds: float
    left: list[str]


_numbers = itertools.count()


class Program:
    """A running program with a supervisor, and what it has told."""

    def __init__(
        self, guard: str, kinds: Sequence[Sequence[str]], folder: Path, *, then: str = "wait", grace: float = 0.15
    ) -> None:
        self.guard = guard
        self._mark = f"fire-{os.getpid()}-{next(_numbers)}/0"
        self._folder = folder
        self._grace = grace
        self._fifo = folder / "held"
        os.mkfifo(self._fifo)
        # Open for reading before anybody writes, or opening it for writing would wait.
        self._held = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        backends = []
        for each in kinds:
            options = ["--held-by", str(self._fifo), "--with", ",".join(each)]
            backends.append(child_command("escapes", *options, *(["--ignores"] if "ignoring" in each else [])))
        self._told, tells = os.pipe()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRIO_SUP_")},
            _proc.MARKER: ":".join(filter(None, [os.environ.get(_proc.MARKER, ""), self._mark])),
            "FIRE": str(tells),
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(folder),
        }
        self._stderr = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            self._embedded(backends, then) if guard == "helper" else self._runner(backends),
            env=environment,
            pass_fds=[tells],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        os.close(tells)
        self._data = b""
        self._lines: list[list[str]] = []
        self.log: list[list[str]] = []
        self.supervisor = int(self.tells("here")[2])

    def _embedded(self, backends: list[list[str]], then: str) -> list[str]:
        plan = json.dumps({"backends": backends, "then": then, "grace": self._grace})
        return [sys.executable, "-m", "tests.promises.fire.embedded", plan]

    def _runner(self, backends: list[list[str]]) -> list[str]:
        path = self._folder / "trio-sup.toml"
        path.write_text(
            "\n".join(
                f"[backends.b{number}]\ncommand = {json.dumps(command)}\ngrace = {self._grace}\n"
                "readiness = { probe = 'tcp', timeout = '60s' }"
                for number, command in enumerate(backends)
            )
        )
        options = ["-c", str(path), "--state-dir", str(self._folder / "state"), "-q"]
        return [sys.executable, "-m", "trio_sup", "run", *options, "-p", "tests.promises.fire.telling"]

    def tells(self, word: str) -> list[str]:
        """Wait for the next line that begins with *word*."""
        while True:
            while self._lines:
                line = self._lines.pop(0)
                if line[0] == word:
                    return line
            if not self._read(30):
                raise RuntimeError(f"it ended without telling {word!r}; it told {self.log}:\n{self._complaints()}")

    def _read(self, timeout: float) -> bool:
        if not select.select([self._told], [], [], timeout)[0]:
            raise RuntimeError(f"nothing was told for {timeout} s; so far {self.log}:\n{self._complaints()}")
        data = os.read(self._told, 65536)
        *lines, self._data = (self._data + data).split(b"\n")
        new = [line.decode().split() for line in lines]
        self._lines += new
        self.log += new
        return bool(data)

    def read_to_the_end(self) -> None:
        """Take in what it told before it was killed."""
        while self._read(10):
            pass

    def _complaints(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def guard_pid(self) -> int:
        if self.guard == "parent":
            return self.process.pid
        helpers = [each.pid for each in _proc.scan() if each.ppid == self.supervisor]
        return next(pid for pid in helpers if "_helper.py" in _proc.command_of(pid))

    def children(self) -> int:
        """How many children the supervisor has."""
        path = f"/proc/{self.supervisor}/task/{self.supervisor}/children"
        with open(path) as file:
            return len(file.read().split())

    def kill(self) -> int:
        """SIGKILL to the supervisor; tells the monotonic nanosecond at which it had been sent."""
        os.kill(self.supervisor, signal.SIGKILL)
        return time.monotonic_ns()

    def left(self) -> list[str]:
        """What is alive of it: all that kept its marker, and the FIFO if anybody holds it."""
        found = [
            f"{each.pid} {_proc.command_of(each.pid)}"
            for each in _proc.scan()
            if each.alive and self._mark in _proc.markers_of(each.pid)
        ]
        if not found:
            try:
                os.read(self._held, 1)  # the end of file: nobody holds it
            except BlockingIOError:
                found.append("somebody without a marker, who holds the FIFO")
        return found

    def holds(self, pid: int) -> bool:
        """Whether a process holds the FIFO."""
        folder = f"/proc/{pid}/fd"
        try:
            held = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
        except OSError:
            return False
        return pid != os.getpid() and str(self._fifo) in held

    def holders(self) -> list[str]:
        """Who holds the FIFO."""
        found = [f"{each} {_proc.command_of(each.pid)}" for each in _proc.scan() if self.holds(each.pid)]
        return found if len(found) < 5 else [*found[:4], f"and {len(found) - 4} more"]

    def close(self) -> None:
        """End what a trial that failed has left, as far as it can be found."""
        for each in _proc.scan():
            if self._mark in _proc.markers_of(each.pid) or self.holds(each.pid):
                _proc.kill_exactly(each, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        os.close(self._told)
        os.close(self._held)
        self._stderr.close()


def run(number: int, moment: str, guard: str, rng: random.Random) -> Outcome:
    """Make one trial."""
    # A runner that has lost its guard has a helper, and no more than that.
    known = MARKS + SHEDS if guard == "parent" and moment != "guard" else MARKS
    kinds = [rng.sample(known, 4) for _ in range(4)]
    then = "wait"
    if moment == "stop":
        kinds[0].append("ignoring")  # so that the stop lasts as long as the grace period
        then = rng.choice(["stop", "force", "leave"]) if guard == "helper" else "wait"
    with tempfile.TemporaryDirectory(prefix="fire-") as folder:
        program = Program(guard, kinds, Path(folder), then=then)
        try:
            exact, killed_at = _MAKE[moment](program, rng)
            left, seconds = _wait_until_gone(program, killed_at)
            left += _wrong_status(program)
        finally:
            program.close()
    return Outcome(number=number, moment=moment, guard=guard, exact=exact, seconds=seconds, left=left)


def _right_after_a_spawn(program: Program, rng: random.Random) -> tuple[bool, int]:
    # Of the helper's siblings it is the first.
    which = rng.randint(1, 4) + (program.guard == "helper")
    while int((told := program.tells("spawns"))[2]) < which:
        pass
    before = int(told[1])
    if rng.random() < 0.2:
        # Not only when the child can be seen already: before the fork, and in the middle of it.
        _spin_until(before + rng.randrange(WITHIN))
    else:
        give_up_at = time.monotonic_ns() + 50_000_000
        while program.children() < which and time.monotonic_ns() < give_up_at:
            before = time.monotonic_ns()
        _spin_until(time.monotonic_ns() + rng.choice([0, rng.randrange(WITHIN // 2)]))
    spawned = program.children() >= which
    killed_at = program.kill()
    # It was not there before, so the kill came no more than this after it.
    return spawned and killed_at - before <= WITHIN, killed_at


def _inside_a_stop(program: Program, rng: random.Random) -> tuple[bool, int]:
    for _ in range(4):
        program.tells("ready")
    if program.guard == "parent":
        program.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
    told = program.tells("stopping")
    _spin_until(int(told[1]) + rng.randrange(120_000_000))
    killed_at = program.kill()
    program.read_to_the_end()
    words = [line[0] for line in program.log]
    return words.count("gone") < 4, killed_at


def _while_ready(program: Program, rng: random.Random) -> tuple[bool, int]:
    for _ in range(4):
        program.tells("ready")
    time.sleep(rng.uniform(0, 0.1))
    return True, program.kill()


def _after_the_guard(program: Program, rng: random.Random) -> tuple[bool, int]:
    for _ in range(rng.randint(1, 4)):
        program.tells("ready")
    lost = program.guard_pid()
    os.kill(lost, signal.SIGKILL)
    replacement = int(program.tells("guard")[2])
    time.sleep(rng.uniform(0, 0.1))
    return replacement != lost, program.kill()


_MAKE = {
    "spawn": _right_after_a_spawn,
    "stop": _inside_a_stop,
    "ready": _while_ready,
    "guard": _after_the_guard,
}


def _spin_until(instant: int) -> None:
    while time.monotonic_ns() < instant:
        pass


def _wait_until_gone(program: Program, killed_at: int) -> tuple[list[str], float]:
    while True:
        left = program.left()
        seconds = (time.monotonic_ns() - killed_at) / 1e9
        if not left or seconds > BOUND:
            return left + (program.holders() if left else []), seconds
        time.sleep(0.005)


def _wrong_status(program: Program) -> list[str]:
    """The guard of the runner tells how the supervisor ended."""
    if program.guard == "helper" or program.process.pid == program.supervisor:
        return []
    status = program.process.wait(timeout=10)
    expected = {128 + signal.SIGKILL, -signal.SIGKILL}  # the latter if it was killed itself
    return [] if status in expected else [f"the exit status {status}"]
