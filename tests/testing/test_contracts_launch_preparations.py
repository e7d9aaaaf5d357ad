"""Launch preparations as plugins would write them keep the contract."""

from __future__ import annotations

import shutil

import attrs
import pytest

from trio_sup import BackendSpec, InvalidValue
from trio_sup.strategies import Launch, LaunchPreparation
from trio_sup.testing.contracts import LaunchPreparationContract

pytestmark = pytest.mark.slow


@attrs.frozen
class Variable:
    """Sets a variable."""

    name: str = "COLOUR"
    value: str = "mauve"

    def check(self, spec: BackendSpec) -> None:
        if self.name in spec.env:
            raise InvalidValue(self.name, "the specification sets it already")

    def prepare(self, launch: Launch) -> Launch:
        return attrs.evolve(launch, environment={**launch.environment, self.name: self.value})


@attrs.frozen
class Nice:
    """Puts a program in front that executes the rest."""

    adjustment: int = 5

    def check(self, spec: BackendSpec) -> None:
        self._program()

    def prepare(self, launch: Launch) -> Launch:
        arguments = ["nice", "-n", str(self.adjustment), launch.executable, *launch.arguments[1:]]
        return attrs.evolve(launch, executable=self._program(), arguments=arguments)

    def _program(self) -> str:
        found = shutil.which("nice")
        if found is None:
            raise InvalidValue("nice", "no such program on the PATH")
        return found


class TestVariable(LaunchPreparationContract):
    def make(self) -> LaunchPreparation:
        return Variable()


class TestNice(LaunchPreparationContract):
    def make(self) -> LaunchPreparation:
        return Nice()
