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
        promise="P1",
        what="a tree stands still before the guard kills it",
        file="guard/_helper.py",
        old="            if not freezer.stop(new):\n",
        new="            if False:\n",
        tests=("tests/promises/test_p1_no_orphan.py::test_children_that_are_a_millisecond_old_are_ended_too",),
    ),
    Mutation(
        promise="P1",
        what="the guard hears of members that only their parents link to a tree",
        file="guard/_helper.py",
        old="    known = roster.known()\n",
        new="    known = set()\n",
        tests=(
            "tests/promises/test_p1_no_orphan.py::test_a_stop_that_is_cut_short_leaves_nothing_that_only_its_parent_could_tell",
        ),
    ),
    Mutation(
        promise="P1",
        what="a guard that is lost is replaced",
        file="engine/_guard.py",
        old="                delay = await self._replace(lost, delay)\n",
        new="                await trio.sleep_forever()\n",
        tests=(
            "tests/promises/test_p1_no_orphan.py::test_a_killed_guard_is_noticed_and_replaced_and_the_new_one_guards",
        ),
    ),
    Mutation(
        promise="P1",
        what="the runner's guard ends what the supervisor has left",
        file="guard/_parent.py",
        old="    status = _serve(child)\n    _end_descendants()\n",
        new="    status = _serve(child)\n",
        tests=(
            "tests/promises/test_p1_no_orphan.py::test_a_killed_supervisor_of_the_runner_leaves_nothing_however_well_it_hides",
        ),
    ),
    Mutation(
        promise="P1",
        what="an environment that execve has not finished is not taken for an empty one",
        file="guard/_proc.py",
        old='        if code_begins == b"0":\n            return None\n',
        new="",
        tests=("tests/guard/test_proc.py::test_a_marker_is_seen_or_else_it_is_said_that_it_cannot_be",),
    ),
    Mutation(
        promise="P1",
        what="a launch is registered with the guard before anything that can fail",
        file="engine/_linux_system.py",
        old="        self._guard.register(tree.pid, tree.started)\n",
        new="",
        tests=("tests/processes/test_launching.py",),
    ),
    Mutation(
        promise="P1",
        what="Ctrl-C is kept out of a launch",
        file="engine/_lifecycle.py",
        old="    @trio.lowlevel.enable_ki_protection\n    async def fill(",
        new="    async def fill(",
        tests=("tests/processes/test_interrupts.py::test_no_task_of_the_engine_can_be_interrupted",),
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
        promise="P3",
        what="a tree stands still before a stop kills it",
        file="engine/_tree.py",
        old="            if not freezer.stop(new):\n",
        new="            if False:\n",
        tests=("tests/engine/test_tree.py",),
    ),
    Mutation(
        promise="P3",
        what="descendants are recorded before the polite signal",
        file="engine/_ending.py",
        old="            await child.remember()\n",
        new="",
        tests=("tests/promises/test_p3_stop_ends.py::test_when_a_stop_says_gone_all_of_the_tree_is",),
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
        file="engine/_linux_child.py",
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
        file="engine/_looking.py",
        old="        return slot.address() if slot is not None and slot.is_ready() else None\n",
        new="        return slot.address() if slot is not None else None\n",
        tests=("tests/engine/test_health.py", "tests/engine/test_lifecycle.py"),
    ),
    Mutation(
        promise="P7",
        what="a release is exchanged in one step",
        file="gallery/_swap.py",
        old="            if not by(box / new, live):\n                _swap_in_two_steps(box, new, live)\n",
        new="            live.rename(box / 'old')\n            move(box / new, live)\n"
        "            (box / 'old').rename(box / new)\n",
        tests=("tests/gallery/test_exchange.py", "tests/gallery/test_killed.py"),
    ),
    Mutation(
        promise="P7",
        what="the next one brings to order what was cut short",
        file="gallery/_repair.py",
        old="        done = await trio.to_thread.run_sync(self._finish_boxes)\n",
        new="        done: list[str] = []\n",
        tests=("tests/promises/test_p7_installs.py", "tests/gallery/test_killed.py"),
    ),
    Mutation(
        promise="P7",
        what="what was downloaded is compared with its digest",
        file="gallery/_download.py",
        old="        if wanted not in (None, found):\n",
        new="        if False:\n",
        tests=("tests/testing/test_contracts_gallery_sources.py",),
    ),
    Mutation(
        promise="P7",
        what="an archive on disk is compared with its digest",
        file="defaults/_gallery_sources.py",
        old='            if fetch.sha256 is not None and found != f"sha256:{fetch.sha256.lower()}":\n',
        new="            if False:\n",
        tests=("tests/testing/test_contracts_gallery_sources.py",),
    ),
    Mutation(
        promise="P7",
        what="who runs from a release holds it",
        file="gallery/_store.py",
        old="                if try_flock(opened, fcntl.LOCK_SH) and is_still(directory, opened):\n",
        new="                if is_still(directory, opened):\n",
        tests=("tests/promises/test_p7_installs.py",),
    ),
    Mutation(
        promise="P7",
        what="what is held stays in the trash",
        file="gallery/_trash.py",
        old="            if not try_flock(opened, fcntl.LOCK_EX) or not is_still(path, opened):\n",
        new="            if not is_still(path, opened):\n",
        tests=("tests/promises/test_p7_installs.py",),
    ),
    Mutation(
        promise="P7",
        what="installations of the same take turns",
        file="gallery/_staging.py",
        old="locks_held(self.lock, map(installation_of, plan.names), waiting=waiting)",
        new="locks_held(self.lock, (), waiting=waiting)",
        tests=("tests/promises/test_p7_installs.py", "tests/gallery/test_two_processes.py"),
    ),
    Mutation(
        promise="P7",
        what="an exchange waits for launches",
        file="gallery/_staged.py",
        old="            async with locks_held(self._lock, self._names, waiting=self._waiting):\n",
        new="            async with locks_held(self._lock, (), waiting=self._waiting):\n",
        tests=("tests/gallery/test_installing.py",),
    ),
    Mutation(
        promise="P7",
        what="no link of an archive leads out",
        file="gallery/_links.py",
        old="            if status is not None and stat.S_ISLNK(status.st_mode) and not tree.reaches(parts, target):\n",
        new="            if False:\n",
        tests=("tests/promises/test_p7_installs.py",),
    ),
    Mutation(
        promise="P7",
        what="no archive brings set-user-id bits",
        file="gallery/_member_writer.py",
        old="        if member.mode & _PRIVILEGED and not self._layer and not member.isdir():\n",
        new="        if False:\n",
        tests=("tests/promises/test_p7_installs.py",),
    ),
    Mutation(
        promise="P7",
        what="an upgrade stops nothing before the new one is there",
        file="gallery/_obtaining.py",
        old="                        check_run_script(into, in_words(uri))\n",
        new="",
        tests=("tests/promises/test_p7_installs.py",),
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
    Mutation(
        promise="P9",
        what="the runner's guard collects orphans",
        file="guard/_parent.py",
        old="        reaped = _reap()\n",
        new="        done, status = os.waitpid(child, os.WNOHANG)\n"
        "        reaped = {child: os.waitstatus_to_exitcode(status)} if done else {}\n",
        tests=("tests/runner/test_pid_1.py",),
    ),
)
