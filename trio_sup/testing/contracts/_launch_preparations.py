"""The contract of launch preparations."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from ..._values import BackendSpec, ProcessKey
from ...engine import open_supervisor
from ...strategies import Launch, LaunchPreparation
from .._scripted import scripted_backend
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, leaving_nothing, run_real

_TELLS = (
    "import os, sys; print(os.getpid(), os.getppid(), *sys.argv[1:], sep='\\n');"
    "print(os.environ.get('CONTRACT'), os.getcwd(), sep='\\n')"
)

_ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "usual": {**os.environ, "CONTRACT": "kept"},
    "empty": {},
    "odd": {"PATH": os.environ.get("PATH", os.defpath), "EMPTY": "", "LINES": "a\nb", "UMLAUT": "ä", "A B": "=="},
}
_EVERY_ENVIRONMENT = pytest.mark.parametrize("environment", _ENVIRONMENTS)


def _content_of(launch: Launch) -> tuple[object, ...]:
    return (launch.executable, tuple(launch.arguments), dict(launch.environment), launch.cwd, launch.port)


class LaunchPreparationContract(StrategyContract):
    """Every launch preparation must pass these."""

    kind = "launch preparation"

    def make(self) -> LaunchPreparation:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    def launch(self, environment: str = "usual", *arguments: str, cwd: Path | None = None) -> Launch:
        """A launch of a program that tells its pid, its parent, its arguments, one variable and its directory."""
        command = [sys.executable, "-c", _TELLS, *arguments]
        variables = dict(_ENVIRONMENTS[environment])
        return Launch(
            key=ProcessKey("contract"),
            spec=BackendSpec(name="contract", command=command, cwd=cwd),
            executable=sys.executable,
            arguments=tuple(command),
            environment=MappingProxyType(variables),
            cwd=cwd,
            port=21000,
        )

    def run(self, launch: Launch) -> list[str]:
        """Execute *launch* as the engine does, and give the lines it prints."""
        process = subprocess.Popen(
            launch.arguments,
            executable=launch.executable,
            env=dict(launch.environment),
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, f"the prepared program failed: {errors[-500:]}"
        lines = output.splitlines()
        assert int(lines[0]) == process.pid, "a program put in front must exec the backend"
        assert int(lines[1]) == os.getpid()
        return lines[2:]

    @_EVERY_ENVIRONMENT
    def test_the_program_still_runs_as_the_same_process(self, environment: str) -> None:
        with leaving_nothing(self.directory):
            self.run(self.make().prepare(self.launch(environment)))

    @pytest.mark.parametrize("arguments", [(), ("--addr", "127.0.0.1:21000"), ("", "a b", "$HOME", "'", "-x", "ä")])
    def test_the_arguments_arrive(self, arguments: tuple[str, ...]) -> None:
        told = self.run(self.make().prepare(self.launch("usual", *arguments)))
        assert told[: len(arguments)] == list(arguments)

    def test_the_working_directory_stays(self) -> None:
        told = self.run(self.make().prepare(self.launch(cwd=self.directory)))
        assert told[-1] == str(self.directory.resolve())

    @_EVERY_ENVIRONMENT
    def test_what_it_was_given_is_not_changed(self, environment: str) -> None:
        launch = self.launch(environment)
        before, specified = _content_of(launch), attrs.asdict(launch.spec)
        self.make().prepare(launch)
        assert _content_of(launch) == before
        assert attrs.asdict(launch.spec) == specified, "it changes the specification, and with it every later launch"

    @_EVERY_ENVIRONMENT
    def test_whom_it_is_for_stays(self, environment: str) -> None:
        launch = self.launch(environment)
        prepared = self.make().prepare(launch)
        assert (prepared.key, prepared.spec, prepared.port) == (launch.key, launch.spec, launch.port)

    @_EVERY_ENVIRONMENT
    def test_the_result_can_be_executed(self, environment: str) -> None:
        prepared = self.make().prepare(self.launch(environment))
        assert isinstance(prepared, Launch)
        assert os.access(prepared.executable, os.X_OK)
        assert prepared.arguments
        assert all(isinstance(part, str) and "\0" not in part for part in prepared.arguments)
        assert all(
            isinstance(text, str) and "\0" not in text for entry in prepared.environment.items() for text in entry
        )
        assert all(name and "=" not in name for name in prepared.environment)

    @_EVERY_ENVIRONMENT
    def test_the_same_launch_is_prepared_the_same_way(self, environment: str) -> None:
        preparation, launch = self.make(), self.launch(environment)
        first = preparation.prepare(launch)
        assert _content_of(preparation.prepare(launch)) == _content_of(first)

    @_EVERY_ENVIRONMENT
    def test_prepared_twice_it_still_runs(self, environment: str) -> None:
        preparation = self.make()
        self.run(preparation.prepare(preparation.prepare(self.launch(environment))))

    @pytest.mark.parametrize("times", [1, 3])
    def test_checking_starts_and_changes_nothing(self, times: int) -> None:
        preparation, launch = self.make(), self.launch()
        spec, before = launch.spec, attrs.asdict(launch.spec)
        with leaving_nothing(self.directory):
            for _ in range(times):
                assert preparation.check(spec) is None  # type: ignore[func-returns-value]  # that is the point
        assert attrs.asdict(spec) == before

    def test_it_can_be_prepared_unchecked(self) -> None:
        unchecked, checked = self.make(), self.make()
        checked.check(self.launch().spec)
        assert _content_of(unchecked.prepare(self.launch())) == _content_of(checked.prepare(self.launch()))

    @pytest.mark.parametrize("what", ["check", "prepare"])
    def test_it_is_quick(self, what: str) -> None:
        took = []
        for _ in range(5):
            preparation, launch = self.make(), self.launch()
            began = time.perf_counter()
            preparation.check(launch.spec) if what == "check" else preparation.prepare(launch)
            took.append(time.perf_counter() - began)
        assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s: it must not block"

    @pytest.mark.parametrize("vice", ["none", "ignore_sigterm", "fork"])
    def test_in_a_supervisor_the_backend_gets_ready_and_is_ended(self, vice: str) -> None:
        async def play() -> None:
            values: dict[str, Any] = {"none": {}, "fork": {"fork": ["plain", "setsid"]}}
            options = values.get(vice, {vice: True})
            spec = scripted_backend(launch=[self.make()], grace=0.3, stop_policy="terminate", **options)
            async with open_supervisor(install_lock="memory", ports="ephemeral") as sup:
                await sup.start(spec)
                (report,) = await sup.stop(spec.name)
                assert report.gone

        with leaving_nothing(self.directory):
            run_real(play)
