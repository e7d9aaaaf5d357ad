"""`trio-sup demo` as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.runner.running import children_of, environment, is_alive, running
from trio_sup import ProcessKey
from trio_sup.runner._demo import WrongAnswer, _expect
from trio_sup.runner._leftovers import left_of, supervisor_of

pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")


async def test_the_demo_shows_each_step_and_that_nothing_is_left(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running("demo", env=environment(tmp_path)) as run:
            assert await run.process.wait() == 0
    steps = [line.split()[0] for line in run.stdout.decode().splitlines()]
    assert steps == ["start"] * 2 + ["call"] * 8 + ["stop"] * 2 + ["proof"]
    assert "nothing of them is left" in run.stdout.decode()
    assert run.stderr == b""


async def test_with_json_it_prints_one_document(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running("demo", "--json", env=environment(tmp_path)) as run:
            assert await run.process.wait() == 0
    document = json.loads(run.stdout)
    assert document["ok"] is True
    assert document["survivors"] == []
    assert [backend["key"] for backend in document["backends"]] == ["demo#0", "demo#1"]
    for backend in document["backends"]:
        assert set(backend) == {"key", "address", "pid", "start_ms", "ready_lag_ms", "stop_ms"}
        assert backend["start_ms"] > backend["ready_lag_ms"] > 0
        assert backend["stop_ms"] > 0
        assert not is_alive(backend["pid"])


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # it has ended meanwhile


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_in_the_middle_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    with trio.fail_after(60):
        async with running("demo", "--json", env=environment(tmp_path)) as run:
            # The kernel tells nobody that a process has got a child; the guard is the first one that stays.
            while not (children := [pid for pid in children_of(run.process.pid) if "trio_sup/guard" in command(pid)]):
                await trio.sleep(0.01)
            run.process.send_signal(number)
            assert await run.process.wait() == 128 + number
    document = json.loads(run.stdout)
    assert document["error"] == f"interrupted by {number.name}"
    assert document["ok"] is False
    assert all(backend["stop_ms"] is None for backend in document["backends"])
    assert not any(map(is_alive, children))


async def test_a_failure_is_told_and_ends_with_1(tmp_path: Path) -> None:
    # A module of the same name in front of the real one: the backends cannot start.
    (tmp_path / "grpclib").mkdir()
    (tmp_path / "grpclib" / "__init__.py").write_text("")
    env = environment(tmp_path, PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1")
    script = (
        "import os, sys, grpclib;sys.argv[1:] = ['demo', '--json'];from trio_sup.__main__ import main; sys.exit(main())"
    )
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-c", f"import sys; sys.path.remove({str(tmp_path)!r}); {script}"],
            env=env, check=False, capture_stdout=True, capture_stderr=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert "died during startup" in document["error"]


async def test_a_stdout_that_takes_nothing_is_told_and_ends_with_1(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with trio.fail_after(60):
            async with running("demo", env=environment(tmp_path), stdout=full) as run:
                assert await run.process.wait() == 1
    finally:
        os.close(full)
    assert run.stderr.decode() == "trio-sup: cannot write to stdout: No space left on device\n"


def test_a_wrong_answer_is_a_failure() -> None:
    with pytest.raises(WrongAnswer, match="demo#0 answered StoresGet with 'blue'; right is 'red'"):
        _expect(ProcessKey("demo"), "StoresGet", "blue", "red")


def test_the_proof_finds_processes_by_number_and_by_marker() -> None:
    with (
        subprocess.Popen(["sleep", "60"], env={"TRIO_SUP_TREE": "outer/1:proof/7"}) as marked,
        subprocess.Popen(["sleep", "60"], env={}) as plain,
    ):
        try:
            assert supervisor_of(marked.pid) == b"proof"
            assert supervisor_of(plain.pid) is None
            assert left_of({plain.pid}, {b"proof"}) == sorted([marked.pid, plain.pid])
            assert left_of({plain.pid}, set()) == [plain.pid]
        finally:
            marked.kill()
            plain.kill()
            os.waitid(os.P_PID, plain.pid, os.WEXITED | os.WNOWAIT)
            assert left_of({plain.pid}, set()) == [], "one that only waits to be reaped has ended"
    assert left_of({marked.pid, plain.pid}, {b"proof"}) == []
