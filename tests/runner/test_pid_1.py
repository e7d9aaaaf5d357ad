"""`trio-sup run` as the first process of a container: a new pid namespace, with a /proc of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from tests.conftest import child_command
from tests.runner.running import TCP, Running, children_of, command_of, environment, running
from trio_sup.guard._proc import read_process

# A user namespace as well, where we are not root. Should the test fail, everything ends with `unshare` itself.
NAMESPACE = (
    "unshare",
    *(["--map-root-user"] if os.getuid() else []),
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def allowed() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return True  # there is no such program: the marker says so


pytestmark = [
    pytest.mark.needs("unshare"),
    pytest.mark.skipif(not allowed(), reason="this machine lets us make no pid namespace"),
    pytest.mark.usefixtures("nothing_of_it_survives"),
]


def configure(tmp_path: Path, **backends: list[str]) -> Path:
    path = tmp_path / "trio-sup.toml"
    path.write_text("\n".join(f"[backends.{name}]\n{TCP}\n{command_of(*argv)}" for name, argv in backends.items()))
    return path


def first_process(run: Running) -> int:
    """The guard, as seen from outside."""
    (pid,) = children_of(run.process.pid)
    return pid


def zombies_of(pid: int) -> list[int]:
    processes = map(read_process, children_of(pid))
    return [process.pid for process in processes if process is not None and not process.alive]


async def test_orphans_are_collected_and_a_sigterm_ends_everything(tmp_path: Path) -> None:
    path = configure(
        tmp_path,
        a=child_command("makes_orphans", "--code", "7"),
        leaves=child_command("leaves_children"),
    )
    with trio.fail_after(60):
        async with running("run", "-c", str(path), env=environment(tmp_path), via=NAMESPACE) as run:
            await run.says("stdout", "orphans 20")
            await run.says("stderr", "is ready", times=2)
            guard = first_process(run)
            with trio.fail_after(5):
                while zombies_of(guard):
                    await trio.sleep(0.005)
            os.kill(guard, signal.SIGTERM)
            assert await run.process.wait() == 0
    said = run.stderr.decode()
    # Nobody took the statuses of the backends away from the supervisor.
    assert "a#0 ended" in said
    assert "exit code 7 (shutdown" in said
    assert "leaves#0 ended" in said
    assert "stopped in" in said
    assert "had to be killed" not in said


async def test_a_killed_supervisor_takes_everything_along_and_its_status_is_told(tmp_path: Path) -> None:
    path = configure(tmp_path, leaves=child_command("leaves_children", "--clear"))
    with trio.fail_after(60):
        async with running("run", "-c", str(path), env=environment(tmp_path), via=NAMESPACE) as run:
            await run.says("stderr", "leaves#0 is ready")
            supervisor = children_of(first_process(run))[0]
            os.kill(supervisor, signal.SIGKILL)
            assert await run.process.wait() == 128 + signal.SIGKILL


async def test_a_failure_is_the_exit_status_of_the_container(tmp_path: Path) -> None:
    path = configure(tmp_path, bad=child_command("dies_before_ready"))
    with trio.fail_after(60):
        async with running("run", "-c", str(path), env=environment(tmp_path), via=NAMESPACE) as run:
            await run.says("stderr", "nothing is running any more")
            os.kill(first_process(run), signal.SIGTERM)
            assert await run.process.wait() == 1
