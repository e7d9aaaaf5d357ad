"""SIGKILL at any moment of an installation leaves a whole old release or a whole new one (promise P7)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.conftest import ROOT
from tests.gallery.installs import version_of, write_archive, write_version

CHILD = ROOT / "tests" / "gallery" / "children" / "installs_over_and_over.py"
KILLED = -signal.SIGKILL


@attrs.define
class Killing:
    """A process that installs in forks of itself, which are killed.

    Attributes:
        base: Where it does.
        process: Itself.
    """

    base: Path
    process: subprocess.Popen[str]
    way: str = "exchange"

    @property
    def backends(self) -> Path:
        return self.base / "backends"

    def set_version(self, version: str) -> None:
        """What the gallery offers from now on."""
        archive = write_archive(self.base / f"{version}.tar.gz", write_version(self.base / version, version))
        entries = (
            {"name": "engine", "capabilities": {"default": "cpu-engine"}},
            {"name": "cpu-engine", "alias": "motor", "uri": f"file://{archive}", "version": version},
        )
        (self.base / "index.json").write_text(json.dumps(entries))

    def order(self, **order: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order |= {"backends": str(self.backends), "index": str(self.base / "index.json"), "way": self.way}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def check(self, *, there: bool) -> None:
        """Fail unless what is there is whole, and in order after a repair."""
        assert self.order(check=True, there=there) == ""


@pytest.fixture(params=["exchange", "renames"])
def killing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killing]:
    command = [sys.executable, "-W", "error", str(CHILD)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Killing(tmp_path, process, request.param)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


# Every step takes long; the quick run takes every third, beginning anywhere.
EACH = pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])


@EACH
def test_killed_at_every_step_of_an_upgrade(killing: Killing, stride: int) -> None:
    killing.set_version("1")
    assert killing.order(step=-1) == 0
    killing.set_version("2")
    versions = []
    for step in range(random.randrange(stride), 500, stride):
        status = killing.order(step=step)
        killing.check(there=True)
        versions.append(version_of(killing.backends / "cpu-engine"))
        if status == 0:
            break
        assert status == KILLED
        if versions[-1] == "2":  # begin again with the old one
            killing.set_version("1")
            assert killing.order(step=-1) == 0
            killing.set_version("2")
    else:
        pytest.fail("it never comes to an end")
    assert len(versions) * stride > 50
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}


@EACH
def test_killed_at_every_step_of_a_first_installation(killing: Killing, stride: int) -> None:
    killing.set_version("1")
    there = []
    for step in range(random.randrange(stride), 500, stride):
        status = killing.order(step=step)
        killing.check(there=False)
        there.append((killing.backends / "cpu-engine").exists())
        if status == 0:
            break
        assert status == KILLED
        for name in ("cpu-engine", "engine"):  # begin again with nothing
            if (killing.backends / name).exists():
                (killing.backends / name).rename(killing.base / f"{name}-{step}")
    else:
        pytest.fail("it never comes to an end")
    assert there == sorted(there)
    assert set(there) == {False, True}


def kill_at_random(killing: Killing, times: int) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    killing.set_version("1")
    assert killing.order(step=-1) == 0
    for turn in range(times):
        killing.set_version(str(turn % 2 + 1))
        delay = chance.uniform(0.005, 0.2)
        assert killing.order(delay=delay) == KILLED
        try:
            killing.check(there=True)
        except AssertionError as error:
            raise AssertionError(f"turn {turn}, killed after {delay:.4f} s, seed {seed}") from error


def test_killed_at_random_instants(killing: Killing) -> None:
    kill_at_random(killing, 10)


@pytest.mark.slow
def test_killed_at_many_random_instants(killing: Killing) -> None:
    kill_at_random(killing, 200)
