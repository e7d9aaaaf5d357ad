"""The engine on real processes, each named for its vice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from trio_sup import BackendSpec, Cause, Phase, Readiness, events
from trio_sup.engine import Output

pytestmark = pytest.mark.usefixtures("nothing_survives")

TCP = Readiness(probe="tcp", timeout=20)


def spec_of(child: str, *arguments: str, **fields: Any) -> BackendSpec:
    fields.setdefault("readiness", TCP)
    return BackendSpec(name=child.replace("_", "-"), command=child_command(child, *arguments), **fields)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Collected:
    """Output of backends, and waiting for a part of it."""

    def __init__(self) -> None:
        self.data = b""
        self._more = trio.Event()

    def __call__(self, output: Output) -> None:
        self.data += output.data
        self._more.set()

    async def line_with(self, text: str) -> str:
        while True:
            for line in self.data.decode().splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            self._more = trio.Event()
            await self._more.wait()


async def test_a_backend_runs_and_ends() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("listens"), model="m")
            assert backend.pid is not None
            assert is_alive(backend.pid)
            assert backend.address is not None
            with socket.create_connection(("127.0.0.1", int(backend.address.split(":")[1])), timeout=5):
                pass
            (report,) = await sup.stop("m")
            assert not is_alive(backend.pid)
            assert report.report is not None
            assert str(report.report.status) == "exit code 0"


async def test_what_a_child_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / "env"
    env_file.write_text('FROM_FILE="a b"\nBOTH=file\nexport OTHER=1\n')
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("TRIO_SUP_TREE", "outer/7")
    output = Collected()
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=output) as sup:
            backend = await sup.start(
                spec_of("prints_what_it_got", cwd=tmp_path, env={"BOTH": "spec"}, env_file=env_file, token="s3cret")
            )
            got = json.loads(await output.line_with('"argv"'))
    assert got["argv"] == ["--addr", backend.address]
    assert got["cwd"] == str(tmp_path)
    assert got["env"]["FROM_FILE"] == "a b"
    assert got["env"]["BOTH"] == "spec"
    assert got["env"]["INHERITED"] == "yes"
    assert got["env"]["LOCALAI_GRPC_AUTH_TOKEN"] == "s3cret"
    assert got["env"]["TRIO_SUP_TREE"].startswith("outer/7:")
    assert got["env"]["SPT_NOENV"] == "1"
    assert got["stdin"] == "/dev/null"
    assert got["session"]
    assert set(got["fds"]) <= {0, 1, 2, 3}  # 3 is the listing itself
    assert "s3cret" not in repr(backend) + str(backend)


async def test_a_cleared_environment_and_placeholders_in_the_command() -> None:
    output = Collected()
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=output) as sup:
            spec = spec_of("prints_what_it_got", "--addr", "{host}:{port}", clear_env=True, env={"ONLY": "this"})
            await sup.start(spec)
            got = json.loads(await output.line_with('"argv"'))
    assert set(got["env"]) <= {"ONLY", "TRIO_SUP_TREE", "SPT_NOENV", "LC_CTYPE"}
    assert got["argv"][0] == "--addr"
    assert len(got["argv"]) == 2


async def test_one_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(spec_of("ignores_sigterm", grace=0.3))
            began = trio.current_time()
            (report,) = await sup.stop("ignores-sigterm")
            assert 0.3 <= trio.current_time() - began < 2
            assert report.report is not None
            assert report.report.killed
            assert str(report.report.status) == "killed by SIGKILL"


async def test_one_that_dies_before_ready_is_told_at_once_with_its_last_lines() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.DiedDuringStartup) as caught:
                await sup.start(spec_of("dies_before_ready"))
            assert caught.value.stderr_tail.splitlines() == [f"line {number}" for number in range(10, 30)]
            assert caught.value.report is not None
            assert caught.value.report.status == trio_sup.ExitStatus(code=3)
            assert sup.backends == ()


async def test_one_that_never_listens_meets_its_deadline() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.NotReadyInTime):
                await sup.start(spec_of("never_listens", readiness=Readiness(timeout=0.5), grace=1))
            assert sup.backends == ()


async def test_one_that_binds_late_is_ready_soon_after() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("binds_late", "--delay", "0.7"))
            assert 0.7 <= (backend.start_seconds or 0) < 2


@pytest.mark.parametrize("clear", [[], ["--clear"]])
async def test_a_stop_ends_descendants_of_every_kind(clear: list[str]) -> None:
    output = Collected()
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=output) as sup:
            await sup.start(spec_of("leaves_children", *clear))
            pids = [int(pid) for pid in (await output.line_with("children")).split()[1:]]
            assert all(map(is_alive, pids))
            assert len(pids) == 4
            (report,) = await sup.stop("leaves-children")
            assert report.gone
            assert not any(map(is_alive, pids))
            assert report.report is not None
            assert report.report.left_children >= 3  # the plain one may have heeded the polite signal


async def test_a_crash_takes_the_descendants_along() -> None:
    output = Collected()
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=output) as sup:
            stream = sup.events()
            backend = await sup.start(spec_of("leaves_children"))
            pids = [int(pid) for pid in (await output.line_with("children")).split()[1:]]
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGKILL)
            event = await next_of(stream, events.BackendGone)
            assert not any(map(is_alive, pids))
            assert event.report is not None
            assert event.report.cause is Cause.EXITED
            assert str(event.report.status) == "killed by SIGKILL"


async def test_one_that_daemonizes_is_told_so_and_ended() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.DiedDuringStartup, match="without daemonizing"):
                await sup.start(spec_of("daemonizes"))


async def test_one_without_reuseaddr_gets_its_port_at_the_second_try() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(ports={"strategy": "affinity", "range": "21620-21620"}) as sup:
            backend = await sup.start(spec_of("binds_without_reuse"))
            assert backend.generation == 2
            assert [report.cause for report in sup.exit_reports(backend.key)] == [Cause.PORT_TAKEN]


async def test_one_without_reuseaddr_gets_another_port_where_old_connections_linger() -> None:
    with trio.fail_after(20):
        with (
            socket.create_server(("127.0.0.1", 21630)) as server,
            socket.create_connection(("127.0.0.1", 21630)) as client,
        ):
            server.accept()[0].close()  # closes first: TIME_WAIT stays on this port
            client.recv(1)
        async with trio_sup.open_supervisor(ports={"strategy": "affinity", "range": "21630-21631"}) as sup:
            backend = await sup.start(spec_of("binds_without_reuse"))
            assert (backend.generation, backend.port) == (3, 21631)


async def test_a_stranger_beside_the_backend_is_never_ready(tmp_path: Path) -> None:
    # Worst case: the stranger comes after the port was held, as the placeholder lets SO_REUSEPORT pass,
    # and before the backend listens.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    spec = spec_of("binds_with_reuse_port", "--after", str(gate), readiness=attrs.evolve(TCP, timeout=3), grace=0.5)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()

            async def start() -> None:
                with pytest.raises(trio_sup.NotReadyInTime, match=r"not part of this backend.*pid"):
                    await sup.start(spec)

            nursery.start_soon(start)
            event = await next_of(stream, events.BackendStarting)
            stranger = subprocess.Popen(
                child_command("binds_with_reuse_port", "--addr", f"127.0.0.1:{event.port}"), stdout=subprocess.PIPE
            )
            assert stranger.stdout is not None
            try:
                stranger.stdout.readline()
                gate.write_bytes(b"go")
                await next_of(stream, events.BackendGone)
            finally:
                stranger.kill()
                stranger.communicate()


async def test_a_port_that_a_stranger_listens_on_is_not_handed_out() -> None:
    with trio.fail_after(20), socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", 21555))
        stranger.listen()
        ports = {"strategy": "affinity", "range": "21555-21556"}
        async with trio_sup.open_supervisor(ports=ports) as sup:
            assert (await sup.start(spec_of("listens"))).port == 21556
            with pytest.raises(trio_sup.NoPortAvailable, match="21555"):
                await sup.start(spec_of("listens"), replica=1)


@pytest.mark.parametrize(("signal_to", "told"), [("group", True), ("leader", False)])
async def test_who_gets_the_polite_signal(signal_to: str, told: bool) -> None:
    output = Collected()
    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=output) as sup:
            await sup.start(spec_of("loses_its_workers", signal_to=signal_to))
            await output.line_with("worker ")
            (report,) = await sup.stop("loses-its-workers")
            assert report.report is not None
            assert not report.report.killed
    assert told or b"worker got SIGTERM" not in output.data


async def test_a_stopped_process_is_woken_for_its_polite_end() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("listens"))
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGSTOP)
            (report,) = await sup.stop("listens")
            assert report.report is not None
            assert not report.report.killed


async def test_a_flood_delays_nobody_and_stays_bounded() -> None:
    seen = 0

    def count(output: Output) -> None:
        nonlocal seen
        seen += len(output.data)

    with trio.fail_after(30):
        async with trio_sup.open_supervisor(on_output=count) as sup:
            flood = await sup.start(spec_of("floods_stderr"))
            for replica in range(3):
                backend = await sup.start(spec_of("listens"), replica=replica)
                assert (backend.start_seconds or 99) < 5
            await sup.stop("floods-stderr", force=True)
            (report,) = sup.exit_reports(flood.key)
    assert seen > 10_000_000
    assert len(report.stderr_tail) < 20 * 101


async def test_fifty_at_once() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            async with trio.open_nursery() as nursery:
                for replica in range(50):
                    nursery.start_soon(partial(sup.start, spec_of("listens"), replica=replica))
            assert len({backend.port for backend in sup.backends}) == 50
            reports = await sup.stop_all()
            assert all(report.gone for report in reports)


@pytest.mark.parametrize(("command", "why"), [
    (["/does/not/exist"], "there is no file"),
    (["no-such-program-anywhere"], "no such program on its PATH"),
    (["/usr"], "it is a directory"),
    ([__file__], "not executable"),
])  # fmt: skip
async def test_a_command_that_cannot_run(command: list[str], why: str) -> None:
    with trio.fail_after(10):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.InvalidCommand, match=why):
                await sup.start(BackendSpec(name="x", command=command))
            assert sup.backends == ()


async def test_a_program_of_an_unknown_format(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\0not a program")
    program.chmod(0o755)
    with trio.fail_after(10):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.LaunchFailed, match="Exec format error"):
                await sup.start(BackendSpec(name="x", command=[program]))


async def test_a_missing_directory_or_environment_file(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.InvalidCommand, match="not a directory"):
                await sup.start(spec_of("listens", cwd=tmp_path / "none"))
            with pytest.raises(trio_sup.InvalidValue, match="env_file"):
                await sup.start(spec_of("listens", env_file=tmp_path / "none"))


async def test_an_exec_probe_needs_no_listener(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    probe = {"strategy": "exec", "command": ["test", "-e", str(flag)]}
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            nursery.start_soon(sup.start, spec_of("never_listens", readiness=Readiness(probe=probe), grace=1))
            async for event in stream:
                if isinstance(event, events.BackendStarting):
                    flag.touch()
                if isinstance(event, events.BackendReady):
                    break


async def test_a_new_supervisor_gets_the_port_of_a_crashed_backend_at_once() -> None:
    ports = {"strategy": "affinity", "range": "21600-21600"}
    with trio.fail_after(30):
        for _ in range(3):
            async with trio_sup.open_supervisor(ports=ports) as sup:
                backend = await sup.start(spec_of("listens"))
                with socket.create_connection(("127.0.0.1", 21600), timeout=5) as client:
                    client.recv(1)  # the server closes first: its end stays in TIME_WAIT
                assert backend.pid is not None
                os.kill(backend.pid, signal.SIGKILL)


async def test_two_supervisors_share_a_range_without_meeting() -> None:
    ports = {"strategy": "affinity", "range": "21610-21613"}
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(ports=ports) as one, trio_sup.open_supervisor(ports=ports) as two:
            for replica in range(2):
                await one.start(spec_of("listens"), replica=replica)
                await two.start(spec_of("listens"), replica=replica)
            used = [backend.port for sup in (one, two) for backend in sup.backends]
            assert sorted(port or 0 for port in used) == [21610, 21611, 21612, 21613]


async def test_few_descriptors_are_a_clear_error_and_stops_still_work() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(spec_of("listens"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
            try:
                with pytest.raises(trio_sup.TooFewDescriptors, match="ulimit"):
                    await sup.start(spec_of("listens"), replica=1)
                assert [str(backend.key) for backend in sup.backends] == ["listens#0"]
                (report,) = await sup.stop("listens")
                assert report.gone
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
async def test_a_healthy_backend_is_still_alive_after_a_minute() -> None:
    with trio.fail_after(90):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("listens"))
            await trio.sleep(60)
            assert sup.backends[0].phase is Phase.READY
            assert sup.backends[0].pid == backend.pid


async def test_the_exit_becomes_an_event_within_milliseconds() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            stream = sup.events()
            backend = await sup.start(spec_of("listens"))
            assert backend.pid is not None
            killed_at = time.time()
            os.kill(backend.pid, signal.SIGKILL)
            event = await next_of(stream, events.BackendStopping)
            assert event.time - killed_at < 0.5
            assert event.detail == "killed by SIGKILL"


def test_importing_the_package_imports_no_heavy_module() -> None:
    code = "import sys, trio_sup; print([m for m in sys.modules if m.split('.')[0] in ('trio', 'attrs', 'grpclib')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
