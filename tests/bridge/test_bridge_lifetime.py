"""Opening and closing, and what is left afterwards: nothing."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.bridge.peers import free_port, peer, running
from tests.conftest import child_command, descriptors
from trio_sup.bridge import Bridge, Channel, open_bridge, open_channel
from trio_sup.errors import CallFailed
from trio_sup.protocol import HEALTH
from trio_sup.protocol import backend_pb2 as pb
from trio_sup.protocol.address import split_address
from trio_sup.testing import cancel_at_every_step

PREDICT = "/backend.Backend/Predict"
HANG = pb.PredictOptions(Prompt="hang")


async def health(channel: Channel, timeout: float | None = 10) -> bytes:
    return (await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply, timeout=timeout)).message


async def test_tasks_older_than_the_bridge_use_its_channels() -> None:
    send, receive = trio.open_memory_channel[Bridge](0)
    answers = []
    done = trio.Event()

    async def older(address: str) -> None:
        bridge = await receive.receive()
        async with bridge.channel(*split_address(address)) as channel:
            answers.append(await health(channel))
            async with channel.stream_stream("/x.Y/Z", pb.ForwardRequest, pb.Reply) as call:
                await call.end()
                answers.extend([reply.message async for reply in call])
        done.set()

    with trio.fail_after(20):
        async with peer("raw_h2") as address, trio.open_nursery() as nursery:
            nursery.start_soon(older, address)
            await trio.testing.wait_all_tasks_blocked()
            async with open_bridge() as bridge:
                await send.send(bridge)
                await done.wait()
    assert answers == [b"OK", b"OK"]


async def test_bridges_may_be_nested() -> None:
    with trio.fail_after(20):
        async with peer("raw_h2") as address, open_channel(address) as outer, open_channel(address) as inner:
            assert await health(outer) == await health(inner) == b"OK"
            assert outer.local_address() != inner.local_address()


async def test_channel_connects_late_and_again_after_a_loss() -> None:
    port = free_port()
    with trio.fail_after(30):
        async with open_bridge() as bridge:
            channel = bridge.channel("127.0.0.1", port)
            assert channel.address == f"127.0.0.1:{port}"
            assert channel.local_address() is None
            with pytest.raises(CallFailed):
                await health(channel)
            locals_seen = set()
            for _ in range(2):
                async with peer("raw_h2", port=port):
                    assert await health(channel) == b"OK"
                    assert channel.remote_address() == ("127.0.0.1", port)
                    locals_seen.add(channel.local_address())
                while channel.local_address() is not None:
                    await trio.lowlevel.checkpoint()
            assert len(locals_seen) == 2


async def test_ipv6_peer_is_reached() -> None:
    address = f"[::1]:{free_port('::1')}"
    with trio.fail_after(20):
        async with running(child_command("raw_h2", "--addr", address)), open_channel(address) as channel:
            assert await health(channel) == b"OK"
            assert channel.address == address
            local = channel.local_address()
            assert local is not None
            assert local[0] == "::1"


async def test_closed_channel_says_so() -> None:
    with trio.fail_after(20):
        async with open_bridge() as bridge:
            channel = bridge.channel("127.0.0.1", 1)
            await channel.aclose()
            await channel.aclose()
            with pytest.raises(CallFailed) as caught:
                await health(channel)
    assert caught.value.status == "UNAVAILABLE"
    assert "is closed" in caught.value.message


@pytest.mark.parametrize("ending", ["channel", "bridge"])
async def test_closing_ends_the_calls_that_run(ending: str, nothing_survives: None) -> None:
    failures: list[CallFailed] = []
    opened: trio.MemoryReceiveChannel[Channel]
    give, opened = trio.open_memory_channel[Channel](1)
    silent = socket.create_server(("127.0.0.1", 0))

    async def older() -> None:
        channel = await opened.receive()
        with pytest.raises(CallFailed) as caught:
            await channel.unary_unary(PREDICT, HANG, pb.Reply)
        failures.append(caught.value)

    with trio.fail_after(20), silent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(older)
            async with open_bridge() as bridge:
                channel = bridge.channel("127.0.0.1", silent.getsockname()[1])
                await give.send(channel)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not failures
                if ending == "channel":
                    await channel.aclose()
                    assert channel.local_address() is None
    assert [failure.status for failure in failures] == ["UNAVAILABLE"]
    assert "closed" in failures[0].message


async def test_closing_ends_an_attempt_to_connect(nothing_survives: None) -> None:
    with trio.fail_after(20), unreachable() as port:
        async with open_bridge() as bridge, trio.open_nursery() as nursery:
            channel = bridge.channel("127.0.0.1", port)

            async def call() -> None:
                with pytest.raises(CallFailed) as caught:
                    await health(channel, timeout=None)
                assert caught.value.status == "UNAVAILABLE"

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await channel.aclose()


async def test_timeout_covers_the_attempt_to_connect(nothing_survives: None) -> None:
    with trio.fail_after(20), unreachable() as port:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(CallFailed) as caught:
                await health(channel, timeout=0.1)
    assert caught.value.status == "DEADLINE_EXCEEDED"


async def test_channel_made_after_the_bridge_has_ended_is_closed() -> None:
    async with open_bridge() as bridge:
        pass
    with pytest.raises(CallFailed) as caught:
        await health(bridge.channel("127.0.0.1", 1))
    assert caught.value.status == "UNAVAILABLE"


async def test_cancelling_the_task_of_a_call_behind_our_back_fails_the_call() -> None:
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_bridge() as bridge, trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(CallFailed) as caught:
                    await health(bridge.channel(*silent.getsockname()))
                assert caught.value.status == "UNAVAILABLE"

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            (task,) = asyncio.all_tasks(bridge._loop)
            task.cancel()


@asynccontextmanager
async def not_reading() -> AsyncIterator[int]:
    """The port of a server that opens its windows wide, and reads nothing of what it lets in."""
    settings = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x04" + b"\x7f\xff\xff\xff"
    window = b"\0\0\x04\x08\0\0\0\0\0" + b"\x7f\x00\x00\x00"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                client, _ = await accepting.accept()
                with client:
                    await client.send(settings + window)
                    await trio.sleep_forever()

            nursery.start_soon(serve)
            yield listener.getsockname()[1]
            nursery.cancel_scope.cancel()


async def test_closing_does_not_wait_for_a_server_that_does_not_read(nothing_survives: None) -> None:
    request = pb.ForwardRequest(body_chunk=bytes(40_000_000))
    with trio.fail_after(20):
        async with not_reading() as port, open_bridge() as bridge:
            channel = bridge.channel("127.0.0.1", port)
            async with channel.stream_stream("/x.Y/Z", pb.ForwardRequest, pb.Reply) as call:
                with trio.move_on_after(0.3) as impatience:
                    await call.send(request)
                assert impatience.cancelled_caught
                # Half of it is on the way: there is no going on.
                with pytest.raises(CallFailed) as caught:
                    await call.send(request)
                assert caught.value.status == "CANCELLED"
            before = len(descriptors())
            await channel.aclose()
            assert len(descriptors()) == before - 1


class unreachable:  # noqa: N801  # used as a function
    """A port whose queue of connections is full, so that connecting takes for ever."""

    def __enter__(self) -> int:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self.listener.getsockname())
            self.clients.append(client)
        port: int = self.listener.getsockname()[1]
        return port

    def __exit__(self, *error: object) -> None:
        for each in (self.listener, *self.clients):
            each.close()


async def test_errors_of_the_block_come_out_as_they_are() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_bridge():
            raise LookupError("mine")
    with trio.fail_after(5), trio.move_on_after(0) as scope:
        async with open_bridge():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_cancelled_anywhere_nothing_is_left(nothing_survives: None) -> None:
    with trio.fail_after(60):
        async with peer("raw_h2") as address, open_bridge() as bridge:
            before = trio.lowlevel.current_statistics().tasks_living
            idle = {entry.split(" -> ")[0] for entry in descriptors()}

            async def operation() -> None:
                async with bridge.channel(*split_address(address)) as channel:
                    await health(channel, timeout=None)
                    async with channel.unary_stream("/x.Y/Z", pb.HealthMessage(), pb.Reply) as replies:
                        async for _ in replies:
                            pass

            async def check() -> None:
                with trio.fail_after(2):
                    while trio.lowlevel.current_statistics().tasks_living != before:
                        await trio.lowlevel.checkpoint()
                assert {entry.split(" -> ")[0] for entry in descriptors()} == idle
                assert not bridge._channels

            assert await cancel_at_every_step(operation, check) > 20


async def test_opening_is_cancelled_anywhere(nothing_survives: None) -> None:
    before = trio.lowlevel.current_statistics().tasks_living

    async def operation() -> None:
        async with open_channel("127.0.0.1:1") as channel:
            with pytest.raises(CallFailed):
                await health(channel)

    async def check() -> None:
        assert trio.lowlevel.current_statistics().tasks_living == before

    with trio.fail_after(60):
        assert await cancel_at_every_step(operation, check) > 10


class Steps(trio.abc.Instrument):
    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def test_idle_bridge_neither_stops_a_virtual_clock_nor_does_anything() -> None:
    steps = Steps()

    async def main() -> None:
        async with open_channel(address) as channel:
            # No time limit: to a virtual clock, waiting for a socket is nothing to wait for.
            assert await health(channel, timeout=None) == b"OK"
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(24 * 3600)
            trio.lowlevel.remove_instrument(steps)
            assert channel.local_address() is not None
            assert await health(channel, timeout=None) == b"OK"

    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(child_command("raw_h2", "--addr", address), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        trio.run(main, clock=MockClock(autojump_threshold=0.05))
        process.kill()
    assert steps.count < 10


async def test_closing_closes_the_socket_before_it_returns() -> None:
    with trio.fail_after(20):
        async with peer("raw_h2") as address, open_bridge() as bridge:
            before = descriptors()
            for _ in range(50):
                async with bridge.channel(*split_address(address)) as channel:
                    assert await health(channel) == b"OK"
                assert len(descriptors()) == len(before)


async def test_finished_calls_leave_nothing() -> None:
    with trio.fail_after(20):
        async with peer("raw_h2") as address, open_bridge() as bridge:
            channel = bridge.channel(*split_address(address))
            for timeout in (1000, math.inf, 1e12):
                assert await health(channel, timeout=timeout) == b"OK"
            assert bridge._loop._timers == []
            assert channel._grpclib is not None
            assert channel._grpclib._protocol is not None
            assert channel._grpclib._protocol.processor.streams == {}
