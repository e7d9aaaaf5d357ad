"""`trio-sup why`: how backends ended, told from the state directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.conftest import child_command
from tests.runner.conftest import nothing_of_it_survives
from tests.runner.running import TALKS, TCP, TRIO_SUP, command_of, environment, running
from tests.state.test_report_tables import REPORT
from trio_sup import Cause, ExitReport, ExitStatus, Phase, ProcessKey
from trio_sup._exit_files import exits_in, name_of, write
from trio_sup._report_tables import report_from
from trio_sup.events import BackendGone
from trio_sup.runner._event_lines import for_people

__all__ = ["nothing_of_it_survives"]


def why(
    *arguments: str, tmp_path: Path, via: tuple[str, ...] = TRIO_SUP, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*via, "why", *arguments],
        env=environment(tmp_path, **more), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def remember(state: Path, *reports: ExitReport) -> None:
    exits_in(state).mkdir(parents=True, exist_ok=True)
    for key in {report.key for report in reports}:
        write(exits_in(state), key, [report for report in reports if report.key == key])


def report(name: str = "chat#0", **changes: Any) -> ExitReport:
    return attrs.evolve(REPORT, key=ProcessKey.parse(name), survivors=(), **changes)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of the configuration file in *tmp_path*."""
    (tmp_path / "trio-sup.toml").write_text('state_dir = "s"\n[backends.chat]\ncommand = ["true"]\n')
    return tmp_path / "s"


def test_everything_that_is_known_of_the_last_end_is_told(tmp_path: Path, state: Path) -> None:
    last = report(
        generation=4,
        cause=Cause.ASKED,
        status=ExitStatus(signal=15),
        success=True,
        killed=True,
        left_children=2,
        asked_by="deploy of version 12",
        out_of_memory="it wrote: MemoryError",
        last_health_error="UNAVAILABLE: still loading",
        stderr_tail="first line\nlast line",
        traceback="Traceback …",
    )
    remember(state, report(stderr_tail="long ago"), last)
    done = why("chat#0", tmp_path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("chat#0 ended at 1970-01-0")
    assert lines[1:] == [
        "cause asked to stop",
        "status killed by SIGTERM",
        "phase ready",
        "asked for yes: deploy of version 12",
        "success yes",
        "lived 2.5 s, as pid 42 (generation 4)",
        "gone 0.25 s after its end began",
        "killed yes, by SIGKILL",
        "left behind 2 processes, killed",
        "out of memory it wrote: MemoryError",
        "last health error UNAVAILABLE: still loading",
        "stderr, last lines:",
        "first line",
        "last line",
        "traceback:",
        "Traceback …",
    ]


def test_one_process_is_no_processes(tmp_path: Path, state: Path) -> None:
    alone = report(left_children=1)
    remember(state, alone)
    assert "left behind 1 process, killed" in " ".join(why("chat#0", tmp_path=tmp_path).stdout.split())
    line = for_people(BackendGone(
        sequence=1, time=1.0, key=alone.key, generation=1, previous=Phase.STOPPING, phase=Phase.GONE, report=alone
    ))  # fmt: skip
    assert line is not None
    assert "with 1 process it had left behind" in line


def test_what_is_not_known_is_said_too(tmp_path: Path, state: Path) -> None:
    remember(state, attrs.evolve(report(status=None), survivors=REPORT.survivors))
    done = why("chat#0", tmp_path=tmp_path)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert {"asked for no", "status still alive", "out of memory nothing speaks for it", "stderr nothing"} <= set(lines)
    assert "gone no, 0.25 s after its end began" in lines
    assert "survivor pid 43 (sleep 1000): still alive after SIGKILL" in lines


def test_all_ends_come_oldest_first(tmp_path: Path, state: Path) -> None:
    remember(state, *(report(generation=number) for number in range(1, 4)))
    every = why("chat#0", "--all", tmp_path=tmp_path).stdout
    assert [every.index(f"(generation {number})") for number in range(1, 4)] == sorted(
        every.index(f"(generation {number})") for number in range(1, 4)
    )
    assert every.count("chat#0 ended at") == 3
    assert why("chat#0", tmp_path=tmp_path).stdout.count("chat#0 ended at") == 1


def test_a_model_means_all_its_replicas_and_an_exact_key_only_itself(tmp_path: Path, state: Path) -> None:
    remember(state, report("chat#1"), report("chat#0"), report("chatter#0"))
    assert [line.split()[0] for line in why("chat", tmp_path=tmp_path).stdout.splitlines() if "ended at" in line] == [
        "chat#0",
        "chat#1",
    ]
    assert why("chat#1", tmp_path=tmp_path).stdout.count("ended at") == 1


@pytest.mark.parametrize("asked", ["chat#7", "chatt", "#0", "chat#"])
def test_an_unknown_one_is_answered_with_those_that_are_known(tmp_path: Path, state: Path, asked: str) -> None:
    remember(state, report("chat#0"), report("vectors#0"))
    done = why(asked, tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no end of {asked!r} is on record in {state}" in done.stderr
    near = asked != "#0"
    assert f"{'Known' if near else '; known'} are chat#0, vectors#0" in done.stderr
    assert ("did you mean" in done.stderr) == near


def test_json_can_be_read_back(tmp_path: Path, state: Path) -> None:
    reports = [report(generation=number, stderr_tail="\x1b[31mü\udcff") for number in range(3)]
    remember(state, *reports)
    for options, expected in (((), reports[-1:]), (("--all",), reports)):
        document = json.loads(why("chat#0", "--json", *options, tmp_path=tmp_path).stdout)
        assert [report_from(table) for table in document["reports"]] == expected


def test_nothing_a_backend_wrote_is_obeyed_by_the_terminal(tmp_path: Path, state: Path) -> None:
    remember(state, report(stderr_tail="\x1b[2J\x07\rbye\ttab\n\udcff\u2028é", out_of_memory="it wrote: \x1b]0;x"))
    done = why("chat", tmp_path=tmp_path)
    assert not set(done.stdout) & {"\x1b", "\x07", "\r", "\u2028"}
    assert r"\x1b[2J\x07" in done.stdout
    assert "bye\ttab" in done.stdout
    assert "é" in done.stdout


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("nan"), float("inf")])
def test_an_impossible_time_is_shown_as_it_is(tmp_path: Path, state: Path, seconds: float) -> None:
    remember(state, report(ended_at=seconds))
    done = why("chat", tmp_path=tmp_path)
    assert done.returncode == 0
    assert f"{seconds!r} seconds since the epoch" in done.stdout


def test_a_file_that_is_wrong_is_named_and_hides_no_other(tmp_path: Path, state: Path) -> None:
    remember(state, report())
    broken = exits_in(state) / name_of(ProcessKey("broken", 0))
    broken.write_text("{")
    done = why("chat", tmp_path=tmp_path)
    assert done.returncode == 0
    assert "chat#0 ended at" in done.stdout
    assert f"warning: {broken} is left out" in done.stderr
    assert why("broken", tmp_path=tmp_path).returncode == 1


# ---- where it looks


def test_the_state_directory_is_that_of_the_configuration(tmp_path: Path, state: Path) -> None:
    remember(state, report("chat#0"))
    remember(tmp_path / "given", report("given#0"))
    remember(tmp_path / "variable", report("variable#0"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = str(tmp_path / "trio-sup.toml")
    assert "chat#0" in why("chat", "-c", file, tmp_path=elsewhere).stdout
    # Relative to the folder of the file, as everything in it; an option is relative to where we are.
    assert "variable#0" in why("variable", "-c", file, tmp_path=elsewhere, TRIO_SUP_STATE_DIR="variable").stdout
    assert "variable#0" in why("variable", "-c", file, tmp_path=elsewhere, trio_sup_state_dir="variable").stdout
    given = ("--state-dir", str(tmp_path / "given"))
    assert "given#0" in why("given", "-c", file, *given, tmp_path=elsewhere, TRIO_SUP_STATE_DIR="variable").stdout
    assert "given#0" in why("given", "--state-dir", "given", tmp_path=tmp_path).stdout


def test_by_default_it_is_one_for_each_configuration_file_which_may_be_gone(tmp_path: Path) -> None:
    from trio_sup.runner._state_directory import default_state_dir

    file = tmp_path / "chat.toml"
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = environment(tmp_path)["XDG_STATE_HOME"]
    try:
        remember(default_state_dir(file), report())
    finally:
        del os.environ["XDG_STATE_HOME"]
        if before is not None:
            os.environ["XDG_STATE_HOME"] = before
    assert why("chat", "-c", "chat.toml", tmp_path=tmp_path).returncode == 0
    # The rest of the file does not matter here, wrong or not.
    file.write_text("nonsense = true\n[backends.chat]\n")
    assert why("chat", "-c", "chat.toml", tmp_path=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no such file"),
        ("= broken", "is not valid TOML"),
        ("state_dir = 5", "state_dir: expected a path (got 5)"),
        ("\xff", "is not valid TOML"),
    ],
)
def test_a_configuration_that_does_not_tell_is_said(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "trio-sup.toml").write_text(text, encoding="latin-1")
    done = why("chat", tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_without_any_end_is_said(tmp_path: Path) -> None:
    done = why("chat", "--state-dir", "nowhere", tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no end of any backend is on record in nowhere" in done.stderr
    assert os.listdir(tmp_path) == []


def test_it_is_quick_and_needs_nothing_heavy(tmp_path: Path, state: Path) -> None:
    remember(state, report())
    done = why("chat", tmp_path=tmp_path, via=(sys.executable, "-X", "importtime", "-m", "trio_sup"))
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "trio_sup" in imported
    assert imported.isdisjoint({"trio", "asyncio", "cattrs", "grpclib", "pluggy", "google"})


@pytest.mark.usefixtures("nothing_of_it_survives")
async def test_it_answers_while_a_run_goes_on_and_after_it(tmp_path: Path) -> None:
    path = tmp_path / "trio-sup.toml"
    path.write_text(
        f"[backends.a]\n{TCP}\n{command_of(sys.executable, TALKS)}\n"
        f"[backends.bad]\n{TCP}\n{command_of(*child_command('dies_before_ready'))}\n"
    )
    with trio.fail_after(60):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "a#0 is ready")
            await run.says("stderr", "could not start bad#0")
            while (done := why("bad#0", tmp_path=tmp_path)).returncode == 1:
                assert "no end of" in done.stderr
            assert "ended by itself" in done.stdout
            assert "phase              starting" in done.stdout
            assert why("a#0", tmp_path=tmp_path).returncode == 1
            run.process.send_signal(signal.SIGTERM)
            await run.process.wait()
    done = why("a#0", tmp_path=tmp_path)
    assert "asked for          yes: SIGTERM" in done.stdout
    assert "oops" in done.stdout
