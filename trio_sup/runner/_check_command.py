"""`trio-sup check`: what a configuration comes to, without starting anything."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from .._releases import Release
from .._restart_schedule import Schedule, play
from .._structuring import below
from .._units import in_words
from .._values import Choice
from .._wording import counted
from ..engine._command import RUN_SCRIPT
from ..engine._gallery_parts import detected
from ..engine._plugins import Plugins
from ..errors import ConfigError
from ._gallery_config import find_release
from ._release_words import called
from ._settings import Config, ConfiguredBackend

_STORIES: Mapping[str, Mapping[str, Any]] = {
    "failed starts": {"ready_for": None},
    "crashes": {"ready_for": 0.0},
    "successes": {"ready_for": 0.0, "success": True},
}
_SHOWN_KEYS = 3
_SHOWN_ROWS = 10


def show_check(config: Config, plugins: Plugins, *, as_json: bool) -> None:
    """Print what each backend comes to.

    Args:
        as_json: One JSON document instead of text.

    Raises:
        ConfigError: A restart policy cannot decide; names every backend that it is to decide for.
    """
    schedules = _Schedules(config, plugins)
    releases = _releases(config)
    entries = [
        _Entry.of(backend, config, schedules.of(backend), releases.get(backend.name)) for backend in config.backends
    ]
    if schedules.problems:
        raise ConfigError(str(config.path), schedules.problems)
    if as_json:
        document = {"config": str(config.path), "backends": [entry.for_programs() for entry in entries]}
        print(json.dumps(document, indent=2))
        return
    processes = sum(len(entry.keys) for entry in entries)
    print(f"{config.path}: {counted(len(entries), 'backend')}, {counted(processes, 'process', 'processes')}")
    for entry in entries:
        print("\n".join(["", *entry.for_people()]))


class _Schedules:
    """Plays the restart policies that a configuration chooses, each one once."""

    def __init__(self, config: Config, plugins: Plugins) -> None:
        self.problems: list[str] = []
        self._config = config
        self._plugins = plugins
        self._played: dict[Choice, Mapping[str, Schedule] | str] = {}

    def of(self, backend: ConfiguredBackend) -> Mapping[str, Schedule]:
        """By story; empty if its policy cannot decide."""
        choice = _restart_policy(backend, self._config)
        if choice not in self._played:
            self._played[choice] = self._play(choice)
        found = self._played[choice]
        if not isinstance(found, str):
            return found
        self.problems.append(f"{below('backends', backend.name)}.restart_policy: {found}")
        return {}

    def _play(self, choice: Choice) -> Mapping[str, Schedule] | str:
        try:
            policy = self._plugins.make("restart policy", choice)
            return {story: play(policy, **ends) for story, ends in _STORIES.items()}
        except Exception as error:
            why = f"restart policy {choice.name!r} cannot decide: {type(error).__name__}: {error}"
            return str(self._plugins.error(self._plugins.offered_by("restart policy", choice.name), why))


def _restart_policy(backend: ConfiguredBackend, config: Config) -> Choice:
    chosen: Choice = config.settings.restart_policy if backend.restart_policy is None else backend.restart_policy
    return chosen


def _releases(config: Config) -> Mapping[str, Release | None]:
    """For each backend that runs one, the installed release; None if it is to be installed first."""
    names = {backend.name: backend.release for backend in config.backends if backend.release is not None}
    galleries = config.galleries
    if not names or galleries is None:
        return {}
    galleries = trio.run(detected, galleries)
    return {
        backend: find_release(galleries, name, galleries.capability or "default")[0] for backend, name in names.items()
    }


@attrs.frozen(kw_only=True)
class _Entry:
    """What one backend comes to.

    Attributes:
        wanted: The name of the release that it runs; None if it runs none.
        release: What is installed of that.
    """

    name: str
    keys: Sequence[str]
    wanted: str | None
    release: Release | None
    command: Sequence[str]
    probe: str
    stop_policy: str
    restart_policy: str
    schedules: Mapping[str, Schedule]

    @classmethod
    def of(
        cls,
        backend: ConfiguredBackend,
        config: Config,
        schedules: Mapping[str, Schedule],
        release: Release | None,
    ) -> _Entry:
        program: Sequence[str] = ()
        if backend.release is not None:
            directory = release.directory if release is not None else None
            program = [str(directory / RUN_SCRIPT) if directory is not None else RUN_SCRIPT]
        return cls(
            wanted=backend.release,
            release=release,
            name=backend.name,
            keys=[str(key) for key in backend.process_keys()],
            command=[*program, *backend.command],
            probe=backend.readiness.probe.name,
            stop_policy=(backend.stop_policy or config.settings.stop_policy).name,
            restart_policy=_restart_policy(backend, config).name,
            schedules=schedules,
        )

    def for_programs(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "keys": self.keys,
            "release": self._release_for_programs(),
            "command": list(self.command),
            "probe": self.probe,
            "stop_policy": self.stop_policy,
            "restart_policy": self.restart_policy,
            "restarts": {
                story.replace(" ", "_"): {
                    "delays": [{"seconds": delay, "times": times} for delay, times in schedule.rows],
                    "waiting": None if schedule.outcome == "goes on" else schedule.waited,
                    "then": schedule.outcome,
                    "why": schedule.why or None,
                }
                for story, schedule in self.schedules.items()
            },
        }

    def _release_for_programs(self) -> dict[str, Any] | None:
        if self.wanted is None:
            return None
        release = self.release
        return {
            "name": self.wanted,
            "installed": release is not None,
            "concrete": release.concrete if release is not None else None,
            "version": release.metadata.version if release is not None else None,
            "directory": str(release.directory) if release is not None else None,
        }

    def for_people(self) -> Iterator[str]:
        keys = self.keys if len(self.keys) <= _SHOWN_KEYS else [self.keys[0], "…", self.keys[-1]]
        yield f"{self.name} ({', '.join(keys)})"
        if self.wanted is not None:
            missing = f"{self.wanted}, which is not installed; its first start installs it"
            found = called(self.release) if self.release is not None else missing
            yield f"  release         {found}"
        yield f"  command         {shlex.join(self.command)}"
        yield f"  probe           {self.probe}"
        yield f"  stop policy     {self.stop_policy}"
        yield f"  restart policy  {self.restart_policy}"
        if any(schedule.delays or schedule.outcome != "left ended" for schedule in self.schedules.values()):
            for story, schedule in self.schedules.items():
                yield f"    {story:14}{_told(schedule)}"


def _told(schedule: Schedule) -> str:
    rows = [_row(delay, times) for delay, times in schedule.rows]
    if schedule.outcome == "goes on" and schedule.rows[-1][1] > 1:
        last = in_words(schedule.delays[-1])
        rows[-1] = f"then every {last}" if len(rows) > 1 else f"{last} each time"
    if len(rows) > _SHOWN_ROWS:
        rows[_SHOWN_ROWS - 2 : -1] = ["…"]
    restarts = f"restarts after {', '.join(rows)}; " if rows else ""
    if schedule.outcome == "goes on":
        return f"{restarts}never gives up"
    if schedule.outcome == "left ended":
        return f"{restarts}{'then ' if rows else ''}left ended"
    waiting = f"after {in_words(schedule.waited)} of waiting" if rows else "at once"
    return f"{restarts}gives up {waiting}: {schedule.why}"


def _row(delay: float, times: int) -> str:
    return in_words(delay) if times == 1 else f"{in_words(delay)} ({times} times)"
