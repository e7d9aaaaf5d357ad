"""`trio-sup run`: the configured backends in the foreground, until told to stop."""

from __future__ import annotations

import os
import time
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import trio

from .._phases import Phase
from .._reports import ExitReport
from .._values import ProcessKey
from ..engine import EventStream, Output, Supervisor, open_supervisor
from ..engine._plugins import Plugins
from ..errors import SignificantEnded, TrioSupError
from ..events import (
    BackendEvent,
    BackendExited,
    BackendGivenUp,
    BackendGone,
    BackendReady,
    BackendStopFailed,
    InstallProgressed,
)
from ._closing_report import closing_report
from ._descriptors import raise_limit
from ._event_lines import for_people, for_programs, stamped
from ._install_display import InstallNews
from ._lines import EndOf, Json, Line, Prefixed, Renderer
from ._logging import shown_log
from ._settings import Config
from ._signals import Signals, end_signals
from ._state_directory import default_state_dir, locked
from ._writer import OWN, Writer

LAST_WORDS = 1.0
"""Seconds at the end for output that nobody may be reading."""

STUCK = 10.0
"""Seconds above the shutdown's own bound after which the process exits although something in it hangs."""


def run(
    config: Config, plugins: Plugins, state_dir: Path | None, *, quiet: bool, as_json: bool, guard_pid: int | None
) -> int:
    """Run the backends of *config* until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Args:
        plugins: Those that *config* was read with.
        state_dir: Instead of the configured or the default one.
        quiet: Leave out what the backends write.
        as_json: Write output and events to stdout as JSON lines.
        guard_pid: The guard that is this process's parent, if there is one.

    Raises:
        StateDirectoryInUse: Another runner uses the state directory; nothing was started or changed.
    """
    directory = state_dir or config.settings.state_dir or default_state_dir(config.path)
    with locked(directory):
        runner = _Runner(config, plugins, directory, quiet=quiet, as_json=as_json)
        return trio.run(partial(runner.run, guard_pid=guard_pid, child_descriptor_limit=raise_limit()))


class _Runner:
    def __init__(self, config: Config, plugins: Plugins, state_dir: Path, *, quiet: bool, as_json: bool) -> None:
        self._config = config
        self._plugins = plugins
        self._state_dir = state_dir
        self._as_json = as_json
        self._on_output = None if quiet else self._show_output
        width = max(len(str(key)) for backend in config.backends for key in backend.process_keys())
        self._stdout = Writer(1, Renderer(Json() if as_json else Prefixed(width)), self._stdout_failed)
        self._stderr = Writer(2, Renderer(Prefixed()), lambda why: None)
        self._news = InstallNews()
        self._starting = 0
        self._stopping = False
        self._supervisor: Supervisor | None = None
        self._began_time = time.time()
        self._ending_since = 0.0
        self._stopped_by: str | None = None
        self._empty = False
        self._failed: set[ProcessKey] = set()
        self._surviving: set[ProcessKey] = set()

    async def run(self, *, guard_pid: int | None, child_descriptor_limit: int) -> int:
        async with trio.open_nursery() as writers:
            writers.start_soon(self._stdout.run)
            writers.start_soon(self._stderr.run)
            with shown_log(self._say):
                await self._supervise(end_signals(), guard_pid, child_descriptor_limit)
                await self._finish()
            writers.cancel_scope.cancel(reason="nobody reads the rest")
        return 1 if self._failed or self._surviving else 0

    async def _supervise(self, signals: Signals, guard_pid: int | None, descriptor_limit: int) -> None:
        async with trio.open_nursery() as insisting, trio.open_nursery() as tasks:
            try:
                async with self._opened(guard_pid, descriptor_limit) as supervisor:
                    self._supervisor = supervisor
                    tasks.start_soon(self._watch, supervisor.events(), supervisor)
                    self._start_all(supervisor, tasks)
                    try:
                        self._stopped_by = supervisor.shutdown_reason = (await signals.next()).name
                    finally:
                        self._stopping, self._ending_since = True, trio.current_time()
                        self._say(self._announcement())
                        insisting.start_soon(self._insist, signals, supervisor)
                        insisting.start_soon(self._exit_if_stuck)
            except SignificantEnded as error:
                self._failed.add(error.key)
                self._say(str(error))
            insisting.cancel_scope.cancel(reason="everything has ended")
        self._say(self._summary())

    def _opened(self, guard_pid: int | None, descriptor_limit: int) -> AbstractAsyncContextManager[Supervisor]:
        settings = self._config.settings
        return open_supervisor(
            state_dir=self._state_dir,
            ports=settings.ports,
            install_lock=settings.install_lock,
            galleries=self._config.galleries,
            stop_policy=settings.stop_policy,
            restart_policy=settings.restart_policy,
            groups={name: group.restart for name, group in settings.groups.items()},
            max_running=settings.max_running,
            memory_budget=settings.memory_budget,
            plugins=self._plugins,
            sections=self._config.sections,
            shutdown_timeout=settings.shutdown_timeout,
            parent_guard=guard_pid,
            on_output=self._on_output,
            log_dir=settings.log_dir,
            child_descriptor_limit=descriptor_limit,
        )

    def _start_all(self, supervisor: Supervisor, tasks: trio.Nursery) -> None:
        """Define every backend, in the order of the file, and start those that start by themselves."""
        for backend in self._config.backends:
            keys = supervisor.define(backend.spec(), model=backend.model, replicas=backend.replicas)
            for key in keys if backend.autostart else ():
                self._starting += 1
                tasks.start_soon(self._start, supervisor, key, name=f"start {key}")
        if not self._starting:
            self._say("no backend starts by itself; Ctrl-C or SIGTERM ends this run")

    async def _start(self, supervisor: Supervisor, key: ProcessKey) -> None:
        try:
            if not self._stopping:
                await supervisor.start(key)
        except TrioSupError as error:
            if not self._stopping:
                self._failed.add(key)
                self._say(f"could not start {key}: {error}")
        finally:
            self._starting -= 1
        self._notice_emptiness(supervisor)

    async def _watch(self, events: EventStream, supervisor: Supervisor) -> None:
        async for event in events:
            if self._as_json:
                self._put_line(self._stdout, for_programs(event))
            text = self._news.text(event.progress) if isinstance(event, InstallProgressed) else for_people(event)
            if text is not None:
                self._put_line(self._stderr, stamped(text, event.time))
            if isinstance(event, BackendStopFailed):
                self._surviving.add(event.key)
            if isinstance(event, BackendReady):
                self._failed.discard(event.key)
            if isinstance(event, BackendGivenUp):
                self._failed.add(event.key)
                self._notice_emptiness(supervisor)
            if isinstance(event, (BackendGone, BackendExited)):
                assert isinstance(event, BackendEvent)
                self._surviving.discard(event.key)
                self._stdout.put(event.key, EndOf(event.key), 0)
                self._notice_emptiness(supervisor)

    def _notice_emptiness(self, supervisor: Supervisor) -> None:
        left = any(backend.phase not in (Phase.GONE, Phase.GIVEN_UP) for backend in supervisor.backends)
        if not left and not self._starting and not self._stopping and not self._empty:
            self._empty = True
            self._say("nothing is running any more; Ctrl-C or SIGTERM ends this run")

    async def _insist(self, signals: Signals, supervisor: Supervisor) -> None:
        second = await signals.next()
        again = "" if self._stopped_by is None else " again"
        self._say(f"{second.name}{again}: killing everything; once more to exit at once")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill, supervisor)
            third = await signals.next()
            os._exit(128 + third)  # what is left is the guard's

    async def _kill(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop_all(force=True)
        except TrioSupError as error:
            self._say(str(error))

    async def _exit_if_stuck(self) -> None:
        await trio.sleep(self._config.settings.shutdown_timeout + STUCK)
        self._say("something in this process does not end; exiting without it")
        self._say(self._summary())
        await self._finish()
        os._exit(1)

    async def _finish(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stdout.finish, LAST_WORDS)
            nursery.start_soon(self._stderr.finish, LAST_WORDS)

    def _announcement(self) -> str:
        if self._stopped_by is None:
            return "a significant backend has ended: stopping everything; Ctrl-C or SIGTERM to do it without grace"
        return f"{self._stopped_by}: stopping everything; once more to do it without grace"

    def _summary(self) -> str:
        text = f"stopped in {trio.current_time() - self._ending_since:.2f} s"
        if self._failed:
            text += f"; failed: {', '.join(map(str, sorted(self._failed)))}"
        if self._surviving:
            text += f"; could not be ended: {', '.join(map(str, sorted(self._surviving)))}"
        return "\n".join([text, *self._ends()])

    def _ends(self) -> list[str]:
        """How each backend ended that was started in this run, or should have been."""
        assert self._supervisor is not None
        last: dict[ProcessKey, ExitReport | None] = {}
        for backend in self._config.backends:
            for key in backend.process_keys():
                # The state directory has those of earlier runs as well.
                ours = [each for each in self._supervisor.exit_reports(key) if each.ended_at >= self._began_time]
                if ours or backend.autostart:
                    last[key] = ours[-1] if ours else None
        left = {backend.key for backend in self._supervisor.backends}
        never_ready = {key for key in self._failed if (report := last.get(key)) is None or _was_starting(report)}
        return closing_report(last, failed=never_ready, left=left)

    # ---- what is shown

    def _show_output(self, output: Output) -> None:
        self._stdout.put(output.key, output, len(output.data))

    def _stdout_failed(self, why: str) -> None:
        self._say(f"stdout cannot be written to ({why}): the output of the backends is not shown")

    def _say(self, text: str) -> None:
        self._put_line(self._stderr, stamped(text))

    @staticmethod
    def _put_line(writer: Writer, text: str) -> None:
        writer.put(OWN, Line(text), len(text))


def _was_starting(report: ExitReport) -> bool:
    return report.phase is Phase.STARTING
