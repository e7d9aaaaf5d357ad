"""The next supervisor ends what an earlier one has left behind, and nothing else."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

import trio_sup
from tests.guard.shapes import SHAPES
from tests.guard.talking import Talker, end, is_alive, talker
from trio_sup import StateDirectoryInUse, _exit_files, events
from trio_sup.engine._tree import all_ended
from trio_sup.engine._tree_ledger import Supervisor, boot_id, now
from trio_sup.guard._proc import Process, read_process
from trio_sup.testing import FakeSystem

ROOT = Path(__file__).parent.parent.parent
CHILD = Path(__file__).parent / "children" / "leaves_a_tree.py"
NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "trees").mkdir()
    return tmp_path


def unguarded(state: Path, shape: Sequence[str], *options: str) -> list[str]:
    """The command of a supervisor that nobody guards, with a tree of that shape."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
    return [sys.executable, "-E", "-c", program, str(CHILD), *options, str(state / "trees"), *shape]


@asynccontextmanager
async def opened(state: Path) -> AsyncIterator[events.LeftoversEnded | None]:
    """A new supervisor on that directory; what it says of leftovers, if it says anything."""
    async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem(), install_lock="memory") as sup:
        stream = sup.events()
        await sup.start(trio_sup.BackendSpec(name="any", command=[sys.executable]))
        async for event in stream:
            if isinstance(event, events.LeftoversEnded):
                yield event
                break
            if isinstance(event, events.BackendReady):
                yield None
                break


async def killed(talk: Talker) -> None:
    talk.process.kill()
    await talk.status()


# ---- what is ended


@pytest.mark.parametrize("shape", SHAPES)
async def test_nothing_of_a_tree_is_left_once_the_next_supervisor_is_open(state: Path, shape: str) -> None:
    async with talker(unguarded(state, SHAPES[shape])) as talk:
        await talk.said("later")
        leader = int((await talk.said("leader"))[0])
        await killed(talk)
        async with opened(state) as event:
            await talk.all_gone(0.5)  # all hold its pipe
            assert event is not None
            assert event.survivors == ()
            pids = {leftover.pid for leftover in event.ended}
            assert ("no leader" in shape) or leader in pids
            assert all(leftover.command for leftover in event.ended)
            assert str(event).startswith(f"ended {len(event.ended)} left behind by an earlier supervisor: pid ")
        assert len(os.listdir(state / "trees")) == 0


async def test_nothing_is_said_where_nothing_was_left(state: Path) -> None:
    async with talker(unguarded(state, SHAPES["a single process"])) as talk:
        leader, later = await talk.process_said("leader"), await talk.process_said("later")
        await killed(talk)
        for process in (leader, later):
            end(process)
        await all_ended([(process.pid, process.started) for process in (leader, later)])
        async with opened(state) as event:
            assert event is None
        assert os.listdir(state / "trees") == []


async def test_a_fork_of_the_host_that_keeps_the_record_open_does_not_make_it_live(state: Path) -> None:
    async with talker(unguarded(state, SHAPES["a single process"], "--fork")) as talk:
        fork, leader = await talk.process_said("fork"), await talk.process_said("leader")
        try:
            await killed(talk)
            async with opened(state) as event:
                assert event is not None
                assert leader.pid in {leftover.pid for leftover in event.ended}
            assert not is_alive(leader)
            assert is_alive(fork)  # it was the host's, and never a backend's
        finally:
            end(fork)


async def test_the_leftovers_of_several_supervisors_are_ended_together(state: Path) -> None:
    shape = SHAPES["own session"]
    async with talker(unguarded(state, shape)) as one, talker(unguarded(state, shape)) as other:
        for talk in (one, other):
            await talk.said("later")
            await killed(talk)
        async with opened(state) as event:
            assert event is not None
            await one.all_gone(0.5)
            await other.all_gone(0.5)
        assert os.listdir(state / "trees") == []


# ---- what is left alone


@contextmanager
def stranger(**environment: str) -> Iterator[Process]:
    """A process that begins a session of its own, with a child in it."""
    command = ["sh", "-c", "sleep 1000 & echo; wait"]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = read_process(process.pid)
        assert found is not None
        try:
            yield found
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def ended_supervisor() -> Supervisor:
    """One whose process has ended."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        found = read_process(process.pid)
        assert found is not None
        process.kill()
    return Supervisor("0123456789abcdef", boot_id(), found.pid, found.started, NAMESPACE)


def write_record(state: Path, supervisor: Supervisor, leaders: dict[int, int]) -> Path:
    path = state / "trees" / supervisor.id
    path.write_text(supervisor.line() + "".join(f"+ {pid} {started} {now() + 1}\n" for pid, started in leaders.items()))
    return path


async def test_the_recorded_process_is_ended(state: Path) -> None:
    # The other tests of this part are worth something only if this one passes.
    with stranger() as process:
        write_record(state, ended_supervisor(), {process.pid: process.started})
        async with opened(state) as event:
            assert event is not None
            assert len(event.ended) == 2
        assert not is_alive(process)


async def test_another_process_with_the_recorded_number_is_left_alone(state: Path) -> None:
    with stranger() as process:
        path = write_record(state, ended_supervisor(), {process.pid: process.started - 1})
        async with opened(state) as event:
            assert event is None
        assert is_alive(process)
        assert not path.exists()


async def test_nothing_is_ended_of_what_an_earlier_boot_had(state: Path) -> None:
    supervisor = attrs.evolve(ended_supervisor(), boot_id="00000000-0000-0000-0000-000000000000")
    with stranger(TRIO_SUP_TREE=f"{supervisor.id}/1") as process:
        path = write_record(state, supervisor, {process.pid: process.started})
        async with opened(state) as event:
            assert event is None
        assert is_alive(process)
        assert not path.exists()


async def test_numbers_of_another_pid_namespace_mean_nothing(state: Path) -> None:
    supervisor = attrs.evolve(ended_supervisor(), namespace=NAMESPACE + 1)
    with stranger() as process, stranger(TRIO_SUP_TREE=f"{supervisor.id}/1") as ours:
        write_record(state, supervisor, {process.pid: process.started})
        async with opened(state) as event:
            assert event is not None
            assert ours.pid in {leftover.pid for leftover in event.ended}
        assert is_alive(process)
        assert not is_alive(ours)


async def test_the_marker_of_another_supervisor_is_none_of_ours(state: Path) -> None:
    supervisor = ended_supervisor()
    with stranger(TRIO_SUP_TREE=f"{supervisor.id}0/1:x{supervisor.id}/1") as process:
        write_record(state, supervisor, {})
        async with opened(state) as event:
            assert event is None
        assert is_alive(process)


@contextmanager
def orphan() -> Iterator[tuple[Process, Process]]:
    """The leader of a session as it was, and a child in that session that outlived it; neither has a marker."""
    command = ["sh", "-c", "sleep 1000 >/dev/null & echo $!; read wait"]
    environment = {"PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        child = read_process(int(process.stdout.readline()))
        leader = read_process(process.pid)
        assert child is not None
        assert leader is not None
        process.stdin.close()
    try:
        yield leader, child
    finally:
        with suppress(ProcessLookupError):  # whoever inherited it has collected it already
            os.kill(child.pid, signal.SIGKILL)


async def test_who_was_in_the_session_while_its_number_meant_the_tree_is_ended(state: Path) -> None:
    with orphan() as (leader, child):
        supervisor = ended_supervisor()
        path = write_record(state, supervisor, {})
        path.write_text(supervisor.line() + f"+ {leader.pid} {leader.started} {child.started + 1}\n")
        async with opened(state) as event:
            assert event is not None
            assert [leftover.pid for leftover in event.ended] == [child.pid]
        await all_ended([(child.pid, child.started)])


async def test_who_joined_a_session_of_that_number_later_is_left_alone(state: Path) -> None:
    with orphan() as (leader, child):
        supervisor = ended_supervisor()
        path = write_record(state, supervisor, {})
        # As far as the record goes, the number may have been given to another session before the child was forked.
        path.write_text(supervisor.line() + f"+ {leader.pid} {leader.started} {child.started}\n")
        async with opened(state) as event:
            assert event is None
        assert is_alive(child)
        # And nobody of a tree is older than its leader.
        path.write_text(supervisor.line() + f"+ {leader.pid} {child.started + 1} {child.started + 9}\n")
        async with opened(state) as event:
            assert event is None
        assert is_alive(child)


OPENS = """
import subprocess, sys, trio, trio_sup
child = subprocess.Popen(["sleep", "1000"])
async def main():
    async with trio_sup.open_supervisor(state_dir=sys.argv[1]) as sup:
        print("open", child.pid, child.poll(), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
trio.run(main)
child.kill()
child.wait()
"""


def test_a_supervisor_that_descends_from_the_tree_spares_itself_and_its_own(state: Path) -> None:
    supervisor = ended_supervisor()
    write_record(state, supervisor, {})
    environment = {**os.environ, "TRIO_SUP_TREE": f"{supervisor.id}/1"}
    with stranger(TRIO_SUP_TREE=f"{supervisor.id}/2") as sibling:
        done = subprocess.run(
            # The shell is an ancestor with the marker.
            ["sh", "-c", '"$@"; echo ended', "sh", sys.executable, "-c", OPENS, str(state)],
            env=environment, cwd=ROOT, input="", capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[0].endswith(" None")
        assert done.stdout.splitlines()[1:] == ["ended"]
        assert not is_alive(sibling)


# ---- one at a time


async def test_a_directory_in_use_is_refused_and_nothing_is_changed(state: Path) -> None:
    async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
        before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
        with pytest.raises(StateDirectoryInUse, match=f"pid {os.getpid()}"):
            async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
                pass
        assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
    async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
        pass


async def test_a_living_supervisor_of_another_program_keeps_its_directory_and_its_trees(state: Path) -> None:
    async with talker(unguarded(state, SHAPES["a single process"])) as talk:
        leader = await talk.process_said("leader")
        await talk.said("later")
        with pytest.raises(StateDirectoryInUse, match=f"pid {talk.pid}"):
            async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
                pass
        assert is_alive(leader)


async def test_two_that_open_at_the_same_time_do_not_both_get_it(state: Path) -> None:
    inside, refused = 0, 0

    async def one() -> None:
        nonlocal inside, refused
        try:
            async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
                inside += 1
                assert inside == 1
                await trio.sleep(0)
                inside -= 1
        except StateDirectoryInUse:
            refused += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
    assert refused < 10


async def test_while_another_one_opens_it_is_refused(state: Path) -> None:
    descriptor = os.open(state / "trees", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StateDirectoryInUse):
            async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
                pass
    finally:
        os.close(descriptor)
    async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
        pass


async def test_a_fork_of_the_host_while_it_opens_keeps_nobody_out(
    state: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    real = _exit_files.remove_unfinished

    def forking(directory: Path) -> None:
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{name}") == str(state / "trees"):
                    # Shares the lock, as the copy in a fork does.
                    request.addfinalizer(partial(os.close, os.dup(int(name))))
        real(directory)

    monkeypatch.setattr(_exit_files, "remove_unfinished", forking)
    for _ in range(2):
        async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem()):
            pass


REPLACES_ITSELF = """
import os, sys, trio, trio_sup
from tests.conftest import child_command
async def main():
    async with trio_sup.open_supervisor(state_dir=sys.argv[1]) as sup:
        if sys.argv[2] == "first":
            spec = trio_sup.BackendSpec(
                name="store", command=child_command("listens"), readiness=trio_sup.Readiness(probe="tcp")
            )
            backend = await sup.start(spec)
            print("started", backend.pid, flush=True)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], "second"])
        print("open again", flush=True)
trio.run(main)
"""


def test_a_program_that_was_replaced_by_another_one_has_let_its_directory_go(state: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLACES_ITSELF, str(state), "first"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert second == "open again"
    process = read_process(int(first.split()[1]))
    assert process is None or not process.alive


# ---- what cannot be ended

MAY_NOT_SIGNAL = """
import sys, trio, trio_sup
from trio_sup import events
async def main():
    async with trio_sup.open_supervisor(state_dir=sys.argv[1]) as sup:
        stream = sup.events()
        async for event in stream:
            print(event, flush=True)
            break
trio.run(main)
"""


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a process of another user")
async def test_what_we_may_not_signal_is_named_and_tried_again_the_next_time(state: Path) -> None:
    supervisor = ended_supervisor()
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            found = read_process(process.pid)
            assert found is not None
            while b"sleep" not in Path(f"/proc/{process.pid}/comm").read_bytes():
                await trio.sleep(0)
            path = write_record(state, supervisor, {found.pid: found.started})
            done = await trio.run_process(
                ["setpriv", "--bounding-set", "-kill", sys.executable, "-c", MAY_NOT_SIGNAL, str(state)],
                cwd=ROOT,
                capture_stdout=True,
            )
            text = done.stdout.decode()
            assert "could not end what an earlier supervisor left behind" in text
            assert f"pid {process.pid} (sleep 1000): not permitted to signal it" in text
            assert is_alive(found)
            assert path.exists()
            async with opened(state) as event:
                assert event is not None
                assert [leftover.pid for leftover in event.ended] == [process.pid]
            assert not path.exists()
        finally:
            process.kill()


def test_the_event_names_some_and_counts_the_rest() -> None:
    event = events.LeftoversEnded(ended=[trio_sup.Leftover(pid, "sleep") for pid in range(1, 14)])
    assert str(event).startswith("ended 13 left behind by an earlier supervisor: pid 1 (sleep); pid 2 (sleep)")
    assert str(event).endswith("pid 10 (sleep); and 3 more")


async def test_the_event_comes_to_who_listens_before_the_first_start_and_not_later(state: Path) -> None:
    with stranger() as process:
        write_record(state, ended_supervisor(), {process.pid: process.started})
        async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem(), install_lock="memory") as sup:
            first, second = sup.events(), sup.events()
            await sup.start(trio_sup.BackendSpec(name="any", command=[sys.executable]))
            late = sup.events()
            await sup.stop("any")
    assert [type(event).__name__ async for event in first][:2] == ["LeftoversEnded", "BackendWaiting"]
    assert [event.sequence async for event in second][:2] == [1, 2]
    assert "LeftoversEnded" not in [type(event).__name__ async for event in late]
