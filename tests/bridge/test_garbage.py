"""Peers that answer nonsense: each fails its own call, and nothing else."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import trio.testing

from tests.bridge.peers import peer
from trio_sup.bridge import Bridge, Channel, Replies, open_bridge
from trio_sup.errors import CallFailed
from trio_sup.protocol import HEALTH, MESSAGE_LIMIT_BYTES
from trio_sup.protocol import backend_pb2 as pb
from trio_sup.protocol.address import split_address

PREDICT_STREAM = "/backend.Backend/PredictStream"


async def health(channel: Channel, timeout: float = 10) -> bytes:
    return (await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply, timeout=timeout)).message


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("bytes", "UNAVAILABLE"),
        ("half-frame", "DEADLINE_EXCEEDED"),
        ("http1", "UNAVAILABLE"),
        ("tls", "UNAVAILABLE"),
        ("push", "UNAVAILABLE"),
        ("silence", "DEADLINE_EXCEEDED"),
        ("rst", "INTERNAL"),
        ("goaway", "UNAVAILABLE"),
        ("slow-trickle", "DEADLINE_EXCEEDED"),
        ("trailers-only-unknown", "UNKNOWN"),
        ("hang-up", "UNAVAILABLE"),
    ],
)
async def test_garbage_fails_its_own_call_only(kind: str, status: str) -> None:
    with trio.fail_after(30):
        async with peer("raw_garbage", "--kind", kind) as bad, peer("raw_h2") as good, open_bridge() as bridge:
            healthy = bridge.channel(*split_address(good))
            assert await health(healthy) == b"OK"
            connection = healthy.local_address()
            garbage = bridge.channel(*split_address(bad))
            for _ in range(2):
                with pytest.raises(CallFailed) as caught:
                    await health(garbage, timeout=0.3)
                assert caught.value.status == status
            assert await health(healthy) == b"OK"
            assert healthy.local_address() == connection


async def test_proper_answer_with_another_text_is_an_answer() -> None:
    with trio.fail_after(20):
        async with peer("raw_garbage", "--kind", "wrong-message") as address, open_bridge() as bridge:
            assert await health(bridge.channel(*split_address(address))) == b"NOT OK"


# ---- a server in this process, on a real socket, that says what it is told to


def conversation(body: bytes, *, trailers: bool = True, end_of_data: bool = False) -> bytes:
    """What a proper server sends for the first call of a connection."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    client.increment_flow_control_window(2**24)
    client.send_headers(1, [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "x")])
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    chunks = [body[start : start + 2**14] for start in range(0, len(body), 2**14)] or [b""]
    for number, chunk in enumerate(chunks):
        server.send_data(1, chunk, end_stream=end_of_data and number == len(chunks) - 1)
    if trailers:
        server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    return server.data_to_send()


PROPER = conversation(b"\0\0\0\0\x04\x0a\x02OK")


@asynccontextmanager
async def saying(
    bridge: Bridge,
    answer: bytes,
    *,
    after: type[h2.events.Event] = h2.events.StreamEnded,
    hang_up: bool = True,
) -> AsyncIterator[Channel]:
    """A channel to a server that sends *answer* after the client's first such event, and then hangs up or waits."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            events: list[h2.events.Event] = []
            while not any(isinstance(event, after) for event in events):
                events = client.receive_data(await stream.receive_some(65536))
            await stream.send_all(answer)
            if hang_up:
                await stream.send_eof()
            while await stream.receive_some(65536):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client was right to go

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        async with bridge.channel("127.0.0.1", port) as channel:
            yield channel
        nursery.cancel_scope.cancel()


def mutated(rng: random.Random, answer: bytes) -> bytes:
    data = bytearray(answer)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) or 1)
        match rng.randrange(6):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place : place + rng.randint(1, 20)]
            case 2:
                data[place:place] = rng.randbytes(rng.randint(1, 20))
            case 3:
                data[place:] = b""
            case 4:  # a frame of any kind, between the others or within one
                payload = rng.randbytes(rng.randint(0, 12))
                head = len(payload).to_bytes(3, "big") + bytes([rng.randrange(12), rng.randrange(256)])
                data[place:place] = head + rng.choice([0, 1, 2, 3]).to_bytes(4, "big") + payload
            case 5:
                data += data[place:]
    return bytes(data)


async def test_mutated_answers_become_failed_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rng = random.Random(20)
    outcomes = []
    with trio.fail_after(60):
        async with open_bridge() as bridge:
            for _ in range(400):
                answer = rng.randbytes(rng.randint(0, 200)) if rng.random() < 0.1 else mutated(rng, PROPER)
                async with saying(bridge, answer) as channel:
                    try:
                        await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply, timeout=5)
                        outcomes.append("answered")  # not every byte matters
                    except CallFailed as failure:
                        outcomes.append(failure.status)
            async with saying(bridge, PROPER) as channel:
                assert await health(channel) == b"OK"
    assert len(outcomes) == 400
    assert outcomes.count("DEADLINE_EXCEEDED") == 0  # a peer that hangs up is noticed at once
    assert len(outcomes) - outcomes.count("answered") > 300
    assert not caplog.records  # nothing louder than debug


async def test_answer_that_is_complete_counts_although_the_server_hangs_up(nothing_survives: None) -> None:
    goaway = b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\1" + b"\0\0\0\0"
    reset = b"\0\0\x04\x03\0\0\0\0\1" + b"\0\0\0\0"
    with trio.fail_after(20):
        async with open_bridge() as bridge:
            for after in (b"", goaway, reset):
                async with saying(bridge, PROPER + after) as channel:
                    assert await health(channel) == b"OK"


async def test_complete_answer_can_be_read_after_the_connection_has_ended() -> None:
    message = pb.Reply(message=b"x" * 300_000).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    with trio.fail_after(20):
        async with (
            open_bridge() as bridge,
            saying(bridge, conversation(framed * 3)) as channel,
            channel.unary_stream(PREDICT_STREAM, pb.PredictOptions(), pb.Reply) as replies,
        ):
            while channel.local_address() is not None:
                await trio.lowlevel.checkpoint()
            assert [len(reply.message) async for reply in replies] == [300_000] * 3


async def test_answer_counts_that_came_before_the_request_was_sent() -> None:
    # It is longer than the window, and the server will not open it any more.
    request = pb.PredictOptions(Prompt="x" * 1_000_000)
    with trio.fail_after(20):
        async with (
            open_bridge() as bridge,
            saying(bridge, PROPER, after=h2.events.RequestReceived, hang_up=False) as channel,
        ):
            assert (await channel.unary_unary(HEALTH, request, pb.Reply)).message == b"OK"


async def test_generator_of_requests_is_closed_when_the_answer_ends_the_call() -> None:
    closed = trio.Event()

    async def generate() -> AsyncIterator[pb.PredictOptions]:
        try:
            while True:
                yield pb.PredictOptions(Prompt="x" * 1_000_000)
        finally:
            closed.set()

    with trio.fail_after(20):
        async with (
            open_bridge() as bridge,
            saying(bridge, PROPER, after=h2.events.RequestReceived, hang_up=False) as channel,
        ):
            reply = await channel.stream_unary("/x.Y/Z", generate(), pb.PredictOptions, pb.Reply)
            assert reply.message == b"OK"
            assert closed.is_set()


async def test_answer_without_a_status_fails_at_once() -> None:
    with trio.fail_after(20):
        async with open_bridge() as bridge:
            answer = conversation(b"\0\0\0\0\x04\x0a\x02OK", trailers=False, end_of_data=True)
            async with saying(bridge, answer, hang_up=False) as channel:
                with pytest.raises(CallFailed) as caught:
                    await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply)
    assert (caught.value.status, caught.value.message) == ("UNKNOWN", "Missing grpc-status header")


@pytest.mark.parametrize("at_a_time", [0, 1])
async def test_calls_that_wait_for_their_turn_fail_with_the_connection(at_a_time: int) -> None:
    limit = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x03" + at_a_time.to_bytes(4, "big")
    failures: list[str] = []

    async def call(channel: Channel) -> None:
        with pytest.raises(CallFailed) as caught:
            await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply)
        failures.append(caught.value.status)

    with trio.fail_after(20):
        async with open_bridge() as bridge, saying(bridge, PROPER + limit, hang_up=False) as channel:
            assert await health(channel) == b"OK"
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call, channel)
                await trio.testing.wait_all_tasks_blocked(0.05)
                transport = channel._transport()
                assert transport is not None
                transport.abort()
    assert failures == ["UNAVAILABLE"] * 3


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", "INTERNAL", "exactly one message"),
        (b"\0\0\0\0\x02\x0a\x00" * 2, "INTERNAL", "exactly one message"),
        (b"\0\0\0\0\x09\x0a\x02OK", "INTERNAL", "ends within a message"),
        (b"\0\0\0\0\x09", "INTERNAL", "ends within a message"),
        (b"\0\0\0", "INTERNAL", "ends within a message"),
        (b"\0\0\0\0\x02\xff\xff", "INTERNAL", "not a backend.Reply"),
        (b"\1\0\0\0\x04\x0a\x02OK", "UNIMPLEMENTED", "compressed"),
        (b"\0" + (MESSAGE_LIMIT_BYTES + 1).to_bytes(4, "big"), "RESOURCE_EXHAUSTED", "longer than the limit"),
    ],
)
async def test_answer_that_is_no_proper_message_says_what_is_wrong(body: bytes, status: str, text: str) -> None:
    with trio.fail_after(20):
        async with open_bridge() as bridge, saying(bridge, conversation(body)) as channel:
            with pytest.raises(CallFailed) as caught:
                await health(channel)
    assert caught.value.status == status
    assert text in caught.value.message


async def test_stream_that_breaks_off_fails() -> None:
    got: list[bytes] = []
    with trio.fail_after(20):
        async with open_bridge() as bridge:
            answer = conversation(b"\0\0\0\0\x04\x0a\x02OK" * 3, trailers=False)
            async with (
                saying(bridge, answer) as channel,
                channel.unary_stream(PREDICT_STREAM, pb.PredictOptions(), pb.Reply) as replies,
            ):
                with pytest.raises(CallFailed) as caught:
                    await collect(replies, got)
    assert set(got) <= {b"OK"}
    assert (caught.value.status, caught.value.message) == ("UNAVAILABLE", "connection lost")


async def collect(replies: Replies[pb.PredictOptions, pb.Reply], into: list[bytes]) -> None:
    async for reply in replies:
        into.append(reply.message)
