"""The fake process works, and answers, on its timetable."""

from __future__ import annotations

import signal
from collections.abc import Collection

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_sup import BackendSpec, CallFailed, ProcessKey
from trio_sup._progress import Usage
from trio_sup.protocol import FREE, HEALTH, HEALTH_CHECK, LOAD_MODEL, health_pb2
from trio_sup.protocol import backend_pb2 as pb
from trio_sup.strategies import Launch
from trio_sup.testing import FakeBackend, FakeChild, FakeSystem
from trio_sup.testing._fakes import WORK_BYTES


def launched_by(system: FakeSystem) -> FakeChild:
    spec = BackendSpec(name="m", command=["m"])
    launch = Launch(key=ProcessKey("m"), spec=spec, executable="m", arguments=["m"], environment={}, cwd=None, port=1)
    return system.launch(launch, 1)


def launched(behaviour: FakeBackend) -> FakeChild:
    return launched_by(FakeSystem(behaviour))


async def test_it_is_idle_unless_told_to_work(autojump_clock: MockClock) -> None:
    child = launched(FakeBackend(memory_bytes=5))
    for _ in range(3):
        assert await child.usage() == Usage(memory_bytes=5)
        await trio.sleep(100)


@pytest.mark.parametrize(
    ("work", "usage"),
    [
        (("cpu",), Usage(cpu_seconds=2.5, memory_bytes=7)),
        (("reads",), Usage(read_bytes=WORK_BYTES * 5 // 2, memory_bytes=7)),
        (("memory",), Usage(memory_bytes=WORK_BYTES * 5 // 2 + 7)),
        (("output",), Usage(memory_bytes=7)),
    ],
)
async def test_it_works_between_two_instants(autojump_clock: MockClock, work: Collection[str], usage: Usage) -> None:
    child = launched(FakeBackend(works_from=10, works_until=20, work=work, memory_bytes=7))
    for at, worked in ((0.0, Usage(memory_bytes=7)), (10.0, Usage(memory_bytes=7)), (12.5, usage)):
        await trio.sleep_until(child.launched_at + at)
        assert await child.usage(exact_memory=True) == worked
    await trio.sleep_until(child.launched_at + 20)
    done = await child.usage()
    assert done is not None
    await trio.sleep(100)
    assert await child.usage() == done
    child.exit()
    assert await child.usage() == Usage()


async def test_it_writes_while_it_works(autojump_clock: MockClock) -> None:
    child = launched(FakeBackend(works_from=10, works_until=13, work=["output"], stderr=b"hello\n"))
    lines = []
    with trio.move_on_after(100):
        await child.pump("stderr", lambda data: lines.append((trio.current_time() - child.launched_at, data)))
    assert lines == [(0, b"hello\n"), (10, b"at work\n"), (11, b"at work\n"), (12, b"at work\n")]


async def test_it_answers_health_checks_free_and_other_calls_apart(autojump_clock: MockClock) -> None:
    refusal = CallFailed(LOAD_MODEL, "INTERNAL", "no")
    system = FakeSystem(FakeBackend(healthy_after=5, free_takes=1, warm_up_takes=7, warm_up_error=refusal))
    child = launched_by(system)
    channel = system.channel("127.0.0.1", 1, None)
    for path, reply_type in ((HEALTH, pb.Reply), (HEALTH_CHECK, health_pb2.HealthCheckResponse)):
        with pytest.raises(CallFailed, match="still loading"):
            await channel.unary_unary(path, pb.HealthMessage(), reply_type)
    began = trio.current_time()
    with pytest.raises(CallFailed, match="INTERNAL: no"):
        await channel.unary_unary(LOAD_MODEL, pb.ModelOptions(Model="m"), pb.Result)
    assert trio.current_time() - began == 7
    assert child.calls == [(began, LOAD_MODEL, pb.ModelOptions(Model="m"))]
    assert (await channel.unary_unary(FREE, pb.HealthMessage(), pb.Result)).success
    assert child.freed_at == [began + 7]
    assert (await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply)).message == b"OK"
    status = await channel.unary_unary(HEALTH_CHECK, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
    assert status.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED"):
        await channel.unary_unary(LOAD_MODEL, pb.ModelOptions(), pb.Result, timeout=3)


async def test_other_calls_succeed_if_nothing_else_is_said(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    launched_by(system)
    channel = system.channel("127.0.0.1", 1, None)
    assert (await channel.unary_unary(LOAD_MODEL, pb.ModelOptions(), pb.Result)).success
    async with channel.unary_stream("/backend.Backend/PredictStream", pb.PredictOptions(), pb.Reply) as replies:
        assert [reply async for reply in replies] == [pb.Reply()]


async def health(system: FakeSystem) -> str:
    """How Health answers now: ``OK``, the reason why not, or that it does not within a second."""
    channel = system.channel("127.0.0.1", 1, None)
    with trio.move_on_after(1):
        try:
            reply = await channel.unary_unary("/backend.Backend/Health", pb.HealthMessage(), pb.Reply)
        except CallFailed as error:
            return error.message
        return str(reply.message, "ascii")
    return "no answer"


async def test_it_is_unwell_on_its_timetable_and_notes_when_it_was_asked(autojump_clock: MockClock) -> None:
    system = FakeSystem(FakeBackend(healthy_after=5, unhealthy_during=[(10, 20)], hangs_during=[(30, 40)]))
    child = launched_by(system)
    expected = {0: "still loading", 5: "OK", 10: "unwell", 19: "unwell", 20: "OK", 30: "no answer", 39.5: "OK"}
    for at, answer in expected.items():
        await trio.sleep_until(child.launched_at + at)
        assert await health(system) == answer, at
    assert [instant - child.launched_at for instant in child.checked_at] == list(expected)
    child.exit()
    assert await health(system) == "the process has ended"


async def test_what_it_leaves_behind_outlives_it_until_it_is_killed(autojump_clock: MockClock) -> None:
    child = launched(FakeBackend(left_children=2, exits_after=1))
    await child.wait()
    ending = await child.end_tree(5)
    assert (ending.survivors, ending.left_children) == ((), 2)
    assert [number for _, number in child.signals] == [signal.SIGKILL]
    assert (await child.end_tree(5)).left_children == 0


async def test_what_it_leaves_behind_may_survive(autojump_clock: MockClock) -> None:
    child = launched(FakeBackend(left_children=1, survives_kill=True))
    child.exit()
    began = trio.current_time()
    ending = await child.end_tree(5)
    assert [survivor.pid for survivor in ending.survivors] == [child.pid]
    assert trio.current_time() - began == 5
    child.release()
    await child.survivors_ended()
    assert (await child.end_tree(5)).survivors == ()


async def test_one_that_survives_sigkill_may_still_end_by_itself(autojump_clock: MockClock) -> None:
    child = launched(FakeBackend(survives_kill=True))
    assert (await child.end_tree(5)).survivors
    child.exit()
    await child.survivors_ended()


async def test_it_writes_when_it_is_told_to(autojump_clock: MockClock) -> None:
    child, written = launched(FakeBackend()), list[bytes]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.pump, "stderr", written.append)
        await wait_all_tasks_blocked()
        child.write(b"boom")
        nursery.cancel_scope.cancel()
    assert written == [b"boom"]


async def test_each_launch_may_be_asked_how_it_behaves(autojump_clock: MockClock) -> None:
    child = launched_by(FakeSystem(lambda launch: FakeBackend(exits_after=launch.port)))
    await trio.sleep(1)
    assert child.has_ended()
