"""`trio-sup run` as a real process."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.conftest import child_command
from tests.runner.conftest import processes_with
from tests.runner.running import TALKS, TCP, command_of, environment, is_alive, running

pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")

# Makes the terminal on stdin the controlling one of a new session, as a shell's job control would find it.
ON_TERMINAL = (
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios\n"
    "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
WITHOUT_STDOUT = ("sh", "-c", 'exec "$0" "$@" >&-')


def configure(tmp_path: Path, **backends: str) -> Path:
    path = tmp_path / "trio-sup.toml"
    path.write_text("\n".join(f"[backends.{name}]\n{TCP}\n{text}" for name, text in backends.items()))
    return path


def talks(*arguments: str) -> str:
    return command_of(sys.executable, TALKS, *arguments)


def pid_of(line: str) -> int:
    """The process id in a line that says that a backend is ready."""
    match = re.search(r"pid (\d+)", line)
    assert match is not None
    return int(match[1])


async def test_output_is_shown_with_the_key_in_front_and_sigterm_ends_it(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks(), longer=talks())
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            pid = pid_of(await run.says("stderr", "a#0 is ready on 127.0.0.1:"))
            await run.says("stderr", "longer#0 is ready on 127.0.0.1:")
            await run.says("stdout", "oops", times=2)
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
            await run.says("stdout", "unfinished", times=2)
    lines = run.stdout.decode().splitlines()
    assert [line for line in lines if line.startswith("a#0 ") and "|" in line] == [
        "a#0      | hello",
        "a#0      | \\xff",
        "a#0      | unfinished",
    ]
    assert "longer#0 ! oops" in lines
    assert "SIGTERM: stopping everything" in run.stderr.decode()
    assert (
        len(re.findall(r"^trio-sup \| [\d:.]+ \S+#0 ended after .*killed by SIGTERM", run.stderr.decode(), re.M)) == 2
    )
    assert "stopped in " in run.stderr.decode()
    assert not is_alive(pid)


async def test_output_is_written_to_files_beside_the_configuration_even_if_it_is_not_shown(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks(), unlogged=f"logs = {{ files = 0 }}\n{talks()}")
    path.write_text(f'log_dir = "logs"\n{path.read_text()}')
    with trio.fail_after(30):
        async with running("run", "-c", str(path), "--quiet", env=environment(tmp_path)) as run:
            for name in ("a", "unlogged"):
                await run.says("stderr", f"{name}#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert b"hello" not in run.stdout
    (file,) = (tmp_path / "logs").iterdir()
    assert file.name == "a#0.log"
    lines = sorted(line.partition(" ")[2] for line in file.read_text().splitlines())
    assert lines == ["stderr oops", "stdout \\xff", "stdout hello", "stdout unfinished"]


async def test_the_unfinished_line_of_a_backend_that_ended_is_shown(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks(), dies=talks("--die"))
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stdout", "dies#0 | unfinished")
            assert run.process.returncode is None
            run.process.send_signal(signal.SIGTERM)
            await run.process.wait()


async def test_ctrl_c_at_a_terminal_arrives_once(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks())
    terminal, inner = os.openpty()
    try:
        with trio.fail_after(30):
            env = environment(tmp_path)
            async with running("run", "-c", str(path), env=env, via=ON_TERMINAL, stdin=inner, stdout=inner) as run:
                await run.says("stderr", "a#0 is ready")
                os.write(terminal, b"\x03")
                assert await run.process.wait() == 0
    finally:
        os.close(terminal)
        os.close(inner)
    assert "SIGINT: stopping everything" in run.stderr.decode()
    assert "again" not in run.stderr.decode()


async def test_a_second_signal_ends_without_grace(tmp_path: Path) -> None:
    path = configure(tmp_path, a=f"grace = '50s'\n{command_of(*child_command('ignores_sigterm'))}")
    with trio.fail_after(20):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "a#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            await run.says("stderr", "a#0 stops: shutdown")
            run.process.send_signal(signal.SIGINT)
            assert await run.process.wait() == 0
    assert "SIGINT again: killing everything" in run.stderr.decode()
    assert "killed by SIGKILL" in run.stderr.decode()


async def test_a_third_signal_exits_at_once_and_the_guard_ends_the_rest(tmp_path: Path) -> None:
    path = configure(tmp_path, a=command_of(*child_command("ignores_sigterm")))
    with trio.fail_after(20):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            pid = pid_of(await run.says("stderr", "a#0 is ready"))
            supervisor = run.supervisor
            # While it is stopped all three pile up, and are then there before anything could end.
            os.kill(supervisor, signal.SIGSTOP)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.kill(supervisor, number)
            os.kill(supervisor, signal.SIGCONT)
            assert await run.process.wait() > 128
    assert not is_alive(pid)


async def test_a_backend_that_does_not_start_leaves_the_others_alone(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks(), bad=command_of(*child_command("dies_before_ready")))
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "could not start bad#0: bad#0 died during startup")
            await run.says("stderr", "a#0 is ready")
            assert "nothing is running" not in run.stderr.decode()
            run.process.send_signal(signal.SIGINT)
            assert await run.process.wait() == 1
    assert "failed: bad#0" in run.stderr.decode()


async def test_it_says_that_nothing_is_running_and_waits_for_a_signal(tmp_path: Path) -> None:
    path = configure(tmp_path, bad=f"replicas = 2\n{command_of(*child_command('dies_before_ready'))}")
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "nothing is running any more")
            assert run.process.returncode is None
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 1
    assert run.stderr.decode().count("nothing is running any more") == 1


async def test_a_second_runner_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks())
    env = environment(tmp_path)
    with trio.fail_after(30):
        async with running("run", "-c", str(path), "--state-dir", str(tmp_path / "s"), env=env) as run:
            await run.says("stderr", "a#0 is ready")
            before = {file: file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file()}
            async with running("run", "-c", str(path), "--state-dir", str(tmp_path / "s"), env=env) as second:
                assert await second.process.wait() == 1
            assert f"another trio-sup (pid {run.supervisor}) uses the state directory" in second.stderr.decode()
            assert second.stdout == b""
            assert {file: file.read_bytes() for file in (tmp_path / "s").rglob("*") if file.is_file()} == before
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


async def test_nothing_is_left_after_the_supervisor_was_killed(tmp_path: Path) -> None:
    path = configure(tmp_path, a=f"replicas = 2\n{talks()}", leaves=command_of(*child_command("leaves_children")))
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "is ready", times=2)
            os.kill(run.supervisor, signal.SIGKILL)
            assert await run.process.wait() == 128 + signal.SIGKILL
            assert processes_with(str(tmp_path)) == []


async def test_a_blocked_stdout_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks("--flood"))
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path), read_stdout=False) as run:
            await run.says("stderr", "a#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            with trio.fail_after(5):
                assert await run.process.wait() == 0
    assert "a#0 ended after" in run.stderr.decode()


async def test_a_blocked_stderr_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks())
    full, write = os.pipe()
    os.write(write, b"x" * fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))
    try:
        with trio.fail_after(30):
            async with running("run", "-c", str(path), env=environment(tmp_path), stderr=write) as run:
                await run.says("stdout", "oops")
                run.process.send_signal(signal.SIGTERM)
                with trio.fail_after(5):
                    assert await run.process.wait() == 0
    finally:
        os.close(full)
        os.close(write)


async def test_a_closed_stdout_is_said_once(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks("--flood"))
    read, write = os.pipe()
    os.close(read)
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=environment(tmp_path), stdout=write) as run:
            os.close(write)
            await run.says("stderr", "stdout cannot be written to (Broken pipe)")
            await run.says("stderr", "a#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert run.stderr.decode().count("stdout cannot be written to") == 1


async def test_output_does_not_land_in_a_file_that_took_the_place_of_a_closed_stdout(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks())
    state = tmp_path / "s"
    with trio.fail_after(30):
        env = environment(tmp_path)
        async with running("run", "-c", str(path), "--state-dir", str(state), env=env, via=WITHOUT_STDOUT) as run:
            await run.says("stderr", "a#0 is ready")
            supervisor = run.supervisor
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert (state / "lock").read_text() == f"{supervisor}\n"


async def test_json_writes_one_object_per_line(tmp_path: Path) -> None:
    path = configure(tmp_path, a=f"token = 'geheim'\n{talks()}")
    with trio.fail_after(30):
        async with running("run", "-c", str(path), "--json", env=environment(tmp_path)) as run:
            await run.says("stdout", "BackendReady")
            await run.says("stdout", "oops")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
            await run.says("stdout", "BackendGone")
    lines = [json.loads(line) for line in run.stdout.decode().splitlines()]
    assert {"type": "output", "key": "a#0", "stream": "stdout", "text": "\\xff"} in lines
    assert {"type": "output", "key": "a#0", "stream": "stderr", "text": "oops"} in lines
    names = [line["event"] for line in lines if line["type"] == "event"]
    assert names[-2:] == ["BackendStopping", "BackendGone"]
    ready = next(line for line in lines if line.get("event") == "BackendReady")
    assert ready["key"] == "a#0"
    assert ready["phase"] == "ready"
    assert "geheim" not in (run.stdout + run.stderr).decode()


async def test_quiet_leaves_the_output_out(tmp_path: Path) -> None:
    path = configure(tmp_path, a=talks())
    with trio.fail_after(30):
        async with running("run", "-c", str(path), "--quiet", env=environment(tmp_path)) as run:
            await run.says("stderr", "a#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert run.stdout == b""


async def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = configure(tmp_path, **{"my-model": talks()})
    env = environment(tmp_path, TRIO_SUP_BACKENDS__MY_MODEL__REPLICAS="2")
    with trio.fail_after(30):
        async with running("run", "-c", str(path), env=env) as run:
            await run.says("stderr", "my-model#0 is ready")
            await run.says("stderr", "my-model#1 is ready")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0


async def test_backends_get_the_descriptor_limit_as_it_was_and_the_folder_of_the_file(tmp_path: Path) -> None:
    path = configure(tmp_path, a=command_of(*child_command("prints_what_it_got")))
    limited = ("sh", "-c", 'ulimit -Sn 500; exec "$0" "$@"')
    with trio.fail_after(30):
        env = environment(tmp_path)
        async with running("run", "-c", str(path.relative_to("/")), env=env, via=limited, cwd="/") as run:
            line = await run.says("stdout", '"argv"')
            limit, _ = resource.prlimit(run.supervisor, resource.RLIMIT_NOFILE)
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    got = json.loads(line.partition("| ")[2])
    assert got["nofile"] == 500
    assert got["cwd"] == str(tmp_path)
    assert limit > 500


def test_what_cannot_be_used_is_said_without_a_traceback(tmp_path: Path) -> None:
    path = configure(tmp_path, a="command = ['/nonexistent/program']")
    done = subprocess.run(
        [sys.executable, "-m", "trio_sup", "run", "-c", str(path)],
        env=environment(tmp_path), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "backends.a.command: cannot run '/nonexistent/program'" in done.stderr
    assert "Traceback" not in done.stderr
