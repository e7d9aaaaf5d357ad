"""The mechanism behind each promise, taken out: tests must fail then. See `python -m tests.mutations --help`."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Mutation:
    """One change that breaks a promise.

    Attributes:
        promise: Such as ``"P1"``; see docs/explanation/promises.md.
        what: What is taken out.
        file: Where, below trio_sup/.
        old, new: The text that is replaced, which occurs there exactly once, and what takes its place.
        tests: What is run then, as pytest takes it; at least one of them must fail.
    """

    promise: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        promise="P1",
        what="the guard ends registered trees",
        file="guard/_helper.py",
        old="                _proc.kill_exactly(process, signal.SIGKILL)\n",
        new="",
        tests=("tests/promises/test_p1_no_orphan.py",),
    ),
    Mutation(
        promise="P1",
        what="a process that was listed and has ended makes a look inconclusive",
        file="guard/_proc.py",
        old="        if fields is None:\n            return None\n        if fields[0] in b",
        new="        if fields is None:\n            return ()\n        if fields[0] in b",
        tests=("tests/engine/test_tree.py", "tests/guard/test_proc.py"),
    ),
    Mutation(
        promise="P2",
        what="a start joins the one that is under way",
        file="engine/_wishes.py",
        old="        return slot.wanted\n\n    def _rouse",
        new="        return self._end_then_start(slot, spec, Cause.REPLACED)\n\n    def _rouse",
        tests=("tests/engine/test_lifecycle.py::test_concurrent_starts_share_one_attempt",),
    ),
    Mutation(
        promise="P2",
        what="a stop keeps the policy from restarting",
        file="engine/_lifecycle.py",
        old="        if slot.leave or self.closing or attempt.ending.report",
        new="        if self.closing or attempt.ending.report",
        tests=("tests/engine/test_resting.py::test_a_stop_while_it_is_ended_prevents_the_restart",),
    ),
    Mutation(
        promise="P3",
        what="the engine insists after the stop policy",
        file="engine/_ending.py",
        old="        ending = await child.end_tree(KILL_TIMEOUT)\n        with trio.move_on_after(1.0):",
        new="        ending = TreeEnding()\n        with trio.move_on_after(1.0):",
        tests=("tests/processes/test_real_children.py",),
    ),
    Mutation(
        promise="P3",
        what="a stop policy has a budget",
        file="engine/_asking.py",
        old="            budget=budget,\n",
        new="            budget=math.inf,\n",
        tests=("tests/testing/test_contracts_stop_policies.py", "tests/engine/test_lifecycle.py"),
    ),
    Mutation(
        promise="P4",
        what="the owner of the port is looked up",
        file="engine/_readiness.py",
        old="        if identity.verdict is Verdict.STRANGER:\n",
        new="        if False:\n",
        tests=("tests/engine/test_lifecycle.py", "tests/processes/test_grpc_backends.py"),
    ),
    Mutation(
        promise="P5",
        what="one that raises ends its own attempt only",
        file="engine/_lifecycle.py",
        old="            except Exception as crash:\n",
        new="            except ZeroDivisionError as crash:\n",
        tests=("tests/engine/test_restarts.py",),
    ),
    Mutation(
        promise="P5",
        what="a side task that hangs is left behind",
        file="engine/_side_tasks.py",
        old="                with trio.move_on_after(OBEY_TIMEOUT):\n",
        new="                with trio.move_on_after(1e9):\n",
        tests=("tests/engine/test_side_tasks.py",),
    ),
    Mutation(
        promise="P5",
        what="backends that flood their output are read in turns",
        file="engine/_system.py",
        old="async with self._system.pump_turns:  # comes once around the loop at the earliest\n",
        new="async with trio.Semaphore(1):\n",
        tests=("tests/logs/test_real_logs.py",),
    ),
    Mutation(
        promise="P5",
        what="what waits to be written to log files is bounded",
        file="_backlog.py",
        old="        while self._cost > self._limit:\n",
        new="        while False:\n",
        tests=("tests/logs/test_log_files.py",),
    ),
    Mutation(
        promise="P6",
        what="a freed port is in quarantine",
        file="_port_pool.py",
        old="self._quarantined.items() if until <= now]:\n",
        new="self._quarantined.items()]:\n",
        tests=("tests/ports/test_port_pool.py",),
    ),
    Mutation(
        promise="P6",
        what="there is an address only while it is ready",
        file="engine/_supervisor.py",
        old="        return slot.address() if slot is not None and slot.is_ready() else None\n",
        new="        return slot.address() if slot is not None else None\n",
        tests=("tests/engine/test_health.py", "tests/engine/test_lifecycle.py"),
    ),
    Mutation(
        promise="P8",
        what="the cause that came first is kept",
        file="engine/_slot.py",
        old="        if self.cause is None:\n            self.cause, self.asked_by = cause, asked_by\n",
        new="        self.cause, self.asked_by = cause, asked_by\n",
        tests=("tests/engine/test_lifecycle.py", "tests/state/test_report_memory.py"),
    ),
    Mutation(
        promise="P8",
        what="reports are written to the state directory",
        file="engine/_records.py",
        old="        self._reports.keep(report)\n",
        new="",
        tests=("tests/state/test_report_memory.py",),
    ),
    Mutation(
        promise="P9",
        what="what does not end in time is forced",
        file="engine/_supervisor.py",
        old="        for slot in self._table:\n            slot.attempt.forced.set()\n",
        new="",
        tests=("tests/engine/test_lifecycle.py",),
    ),
)
