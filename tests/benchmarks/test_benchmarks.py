"""The benchmarks run, and say what they found; their numbers are judged by people, not here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.benchmarks import _isolation
from tests.benchmarks._figures import Figure, percentile, table

pytestmark = [pytest.mark.usefixtures("nothing_survives"), pytest.mark.slow]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=_isolation.ROOT, capture_output=True, text=True, timeout=60)


def test_a_run_prints_a_table_and_writes_the_same_as_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = run("mass_stop", "--quick", "--json", file)
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert {"cores", "kernel", "python"} <= document["machine"].keys()
    assert len(document["figures"]) == 3
    for figure in document["figures"]:
        assert figure["name"] in done.stdout
        assert figure["measured"] >= 1.0  # what the children need
        assert figure["verdict"] in (("met", "MISSED") if figure["goal"] else ("",))


def test_an_unknown_name_is_refused() -> None:
    done = run("no_such")
    assert done.returncode == 2
    assert "no_such" in done.stderr


def test_a_figure_above_its_goal_is_missed() -> None:
    below, above, alone = (
        Figure(name=str(measured), measured=measured, goal=goal, unit="ms")
        for measured, goal in ((0.010, 0.010), (0.0101, 0.010), (5.0, None))
    )
    assert [figure.verdict() for figure in (below, above, alone)] == ["met", "MISSED", ""]
    lines = table([below, above, alone]).splitlines()
    assert "10.0 ms" in lines[1]
    assert "MISSED" in lines[2]
    assert lines[3].split("|")[1].strip() == "5000 ms"


def test_a_percentile_is_a_sample() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert (percentile(samples, 0.5), percentile(samples, 0.99), percentile(samples, 1.0)) == (50, 99, 100)
    assert percentile([7.0], 0.99) == 7


async def fail() -> None:
    raise ValueError("as asked")


async def hang() -> None:
    await trio.sleep_forever()


async def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_measurement_that_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        _isolation.run_isolated(fail, timeout=30)
    assert "as asked" in capfd.readouterr().err


@pytest.mark.parametrize("kind", [hang, stop_itself])
def test_a_measurement_that_hangs_is_ended(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_isolation, "LEAVE_TIMEOUT", 5.0 if kind is hang else 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        _isolation.run_isolated(kind, timeout=2.0)  # type: ignore[arg-type]  # both are what it takes
