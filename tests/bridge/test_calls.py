"""The four kinds of calls, against two other implementations of gRPC."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from tests.bridge.peers import PEERS, free_port, peer
from trio_sup.bridge import Channel, open_channel
from trio_sup.errors import CallFailed, InvalidValue
from trio_sup.protocol import FREE, HEALTH, HEALTH_CHECK, MESSAGE_LIMIT_BYTES, health_pb2
from trio_sup.protocol import backend_pb2 as pb

PREDICT = "/backend.Backend/Predict"
PREDICT_STREAM = "/backend.Backend/PredictStream"
FORWARD = "/backend.Backend/Forward"
COLLECT = "/test.Peer/Collect"
CANCELLED = "/test.Peer/Cancelled"


@pytest.fixture(params=PEERS)
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[Channel]:
    async with peer(request.param) as address, open_channel(address) as opened:
        yield opened


async def predict(channel: Channel, prompt: str, timeout: float | None = 20) -> bytes:
    reply = await channel.unary_unary(PREDICT, pb.PredictOptions(Prompt=prompt), pb.Reply, timeout=timeout)
    return reply.message


async def test_unary_call_returns_the_answer(channel: Channel) -> None:
    with trio.fail_after(20):
        assert (await channel.unary_unary(HEALTH, pb.HealthMessage(), pb.Reply)).message == b"OK"
        assert (await channel.unary_unary(FREE, pb.HealthMessage(), pb.Result)).success
        assert await predict(channel, "hello") == b"hello"


async def test_standard_health_service_can_be_asked(channel: Channel) -> None:
    with trio.fail_after(20):
        reply = await channel.unary_unary(HEALTH_CHECK, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_who_parts_hangs_up_when_the_last_call_is_over(channel: Channel) -> None:
    with trio.fail_after(20):
        async with channel.unary_stream(PREDICT_STREAM, pb.PredictOptions(Prompt="x", Tokens=2), pb.Reply) as replies:
            channel.part()
            assert await predict(channel, "hello") == b"hello"
            assert [reply.tokens async for reply in replies] == [0, 1]
            assert channel.local_address() is not None
        assert channel.local_address() is None
        assert await predict(channel, "once more") == b"once more"
        assert channel.local_address() is None


async def test_who_parts_while_nothing_is_called_hangs_up_at_once(channel: Channel) -> None:
    with trio.fail_after(20):
        channel.part()
        await predict(channel, "hello")
    assert channel.local_address() is None


async def test_many_calls_share_one_connection(channel: Channel) -> None:
    answers = {}

    async def ask(number: int) -> None:
        answers[number] = await predict(channel, str(number))

    with trio.fail_after(20):
        await predict(channel, "connect")
        before = channel.local_address()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
    assert answers == {number: str(number).encode() for number in range(50)}
    assert channel.local_address() == before


async def test_status_of_the_server_is_the_failure(channel: Channel) -> None:
    with trio.fail_after(20), pytest.raises(CallFailed) as caught:
        await predict(channel, "fail")
    assert (caught.value.path, caught.value.status) == (PREDICT, "FAILED_PRECONDITION")
    assert caught.value.message == "model not loaded: größer"


async def test_unknown_method_is_unimplemented(channel: Channel) -> None:
    with trio.fail_after(20), pytest.raises(CallFailed) as caught:
        await channel.unary_unary("/backend.Backend/Embedding", pb.PredictOptions(), pb.EmbeddingResult)
    assert caught.value.status == "UNIMPLEMENTED"


async def test_stream_of_answers_is_read_to_its_end(channel: Channel) -> None:
    with trio.fail_after(20):
        async with channel.unary_stream(PREDICT_STREAM, pb.PredictOptions(Tokens=300), pb.Reply) as replies:
            assert [reply.tokens async for reply in replies] == list(range(300))
            assert [reply async for reply in replies] == []


async def test_stream_of_answers_fails_after_its_last_message(channel: Channel) -> None:
    got = []
    request = pb.PredictOptions(Tokens=3, Prompt="fail")

    async def read() -> None:
        async with channel.unary_stream(PREDICT_STREAM, request, pb.Reply) as replies:
            async for reply in replies:
                got.append(reply.tokens)

    with trio.fail_after(20), pytest.raises(CallFailed) as caught:
        await read()
    assert got == [0, 1, 2]
    assert (caught.value.status, caught.value.message) == ("RESOURCE_EXHAUSTED", "no more")


async def test_requests_may_come_from_a_list_or_an_async_generator(channel: Channel) -> None:
    async def generate() -> AsyncIterator[pb.PredictOptions]:
        for prompt in "xyz":
            await trio.lowlevel.checkpoint()
            yield pb.PredictOptions(Prompt=prompt)

    with trio.fail_after(20):
        listed = [pb.PredictOptions(Prompt=prompt) for prompt in "ab"]
        reply = await channel.stream_unary(COLLECT, listed, pb.PredictOptions, pb.Reply)
        assert reply.message == b"a,b"
        reply = await channel.stream_unary(COLLECT, generate(), pb.PredictOptions, pb.Reply)
        assert reply.message == b"x,y,z"
        reply = await channel.stream_unary(COLLECT, [], pb.PredictOptions, pb.Reply)
        assert reply.tokens == 0


async def test_server_may_answer_before_all_requests_were_sent(channel: Channel) -> None:
    closed = trio.Event()

    async def generate() -> AsyncIterator[pb.PredictOptions]:
        try:
            yield pb.PredictOptions(Prompt="enough")
            await trio.sleep_forever()
        finally:
            closed.set()

    with trio.fail_after(20):
        reply = await channel.stream_unary(COLLECT, generate(), pb.PredictOptions, pb.Reply)
        assert reply.message == b"enough"
        assert closed.is_set()
        assert await predict(channel, "still here") == b"still here"


async def test_status_of_the_server_ends_a_stream_of_requests(channel: Channel) -> None:
    async def generate() -> AsyncIterator[pb.PredictOptions]:
        yield pb.PredictOptions(Prompt="fail")
        await trio.sleep_forever()

    with trio.fail_after(20), pytest.raises(CallFailed) as caught:
        await channel.stream_unary(COLLECT, generate(), pb.PredictOptions, pb.Reply)
    assert caught.value.status == "INVALID_ARGUMENT"


async def test_error_of_the_requests_ends_the_call_and_is_raised_as_it_is(channel: Channel) -> None:
    async def generate() -> AsyncIterator[pb.PredictOptions]:
        yield pb.PredictOptions(Prompt="a")
        raise LookupError("mine")

    with trio.fail_after(20):
        with pytest.raises(LookupError, match="mine"):
            await channel.stream_unary(COLLECT, generate(), pb.PredictOptions, pb.Reply)
        assert await predict(channel, "still here") == b"still here"


async def test_both_sides_send_as_they_like(channel: Channel) -> None:
    with trio.fail_after(20):
        async with channel.stream_stream(FORWARD, pb.ForwardRequest, pb.ForwardReply) as call:
            for text in (b"one", b"two"):
                await call.send(pb.ForwardRequest(body_chunk=text))
                assert (await anext(call)).body_chunk == text
            await call.end()
            assert [reply async for reply in call] == []


async def test_sending_and_reading_in_two_tasks_moves_more_than_the_windows_hold(channel: Channel) -> None:
    chunk = bytes(300_000)
    with trio.fail_after(30):
        async with channel.stream_stream(FORWARD, pb.ForwardRequest, pb.ForwardReply) as call:

            async def send() -> None:
                for _ in range(40):
                    await call.send(pb.ForwardRequest(body_chunk=chunk))
                await call.end()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert sum([len(reply.body_chunk) async for reply in call]) == 40 * len(chunk)


@pytest.mark.parametrize(("path", "status"), [("fail", "ABORTED"), ("stop", "CANCELLED")])
async def test_sending_after_the_server_ended_the_call_says_so(channel: Channel, path: str, status: str) -> None:
    with trio.fail_after(20):
        async with channel.stream_stream(FORWARD, pb.ForwardRequest, pb.ForwardReply) as call:
            await call.send(pb.ForwardRequest(path=path))
            if path == "stop":
                assert [reply async for reply in call] == []
            else:
                with pytest.raises(CallFailed):
                    await anext(call)
            with pytest.raises(CallFailed) as caught:
                await call.send(pb.ForwardRequest())
            assert caught.value.status == status


@pytest.mark.parametrize("kind", ["Predict", "PredictStream", "Collect", "Forward"])
async def test_cancelling_a_call_tells_the_server_and_leaves_the_channel_usable(channel: Channel, kind: str) -> None:
    reading = trio.Event()

    async def endless() -> AsyncIterator[pb.PredictOptions]:
        yield pb.PredictOptions(Prompt="hang")
        await trio.sleep_forever()

    async def call() -> None:
        hanging = pb.PredictOptions(Prompt="hang", Tokens=1)
        match kind:
            case "Predict":
                reading.set()
                await channel.unary_unary(PREDICT, hanging, pb.Reply)
            case "PredictStream":
                async with channel.unary_stream(PREDICT_STREAM, hanging, pb.Reply) as replies:
                    await anext(replies)
                    reading.set()
                    await anext(replies)
            case "Collect":
                reading.set()
                await channel.stream_unary(COLLECT, endless(), pb.PredictOptions, pb.Reply)
            case "Forward":
                async with channel.stream_stream(FORWARD, pb.ForwardRequest, pb.ForwardReply) as both:
                    await both.send(pb.ForwardRequest(body_chunk=b"x"))
                    await anext(both)
                    reading.set()
                    await anext(both)

    with trio.fail_after(30):
        await predict(channel, "connect")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await reading.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)
            # By now the request is with the server: a later call on the same connection was answered.
            await predict(channel, "after")
            nursery.cancel_scope.cancel()
        seen = await channel.unary_unary(CANCELLED, pb.PredictOptions(Tokens=1), pb.Reply)
        assert seen.message == kind.encode()
        assert await predict(channel, "still here") == b"still here"


async def test_leaving_the_block_early_ends_the_call(channel: Channel) -> None:
    with trio.fail_after(20):
        request = pb.PredictOptions(Prompt="hang", Tokens=2)
        async with channel.unary_stream(PREDICT_STREAM, request, pb.Reply) as replies:
            await anext(replies)
        seen = await channel.unary_unary(CANCELLED, pb.PredictOptions(Tokens=1), pb.Reply)
        assert seen.message == b"PredictStream"
        with pytest.raises(CallFailed) as caught:
            await anext(replies)
        assert caught.value.status == "CANCELLED"


async def test_cancelled_read_loses_no_message(channel: Channel) -> None:
    body = bytes(1_000_000)
    with trio.fail_after(30):
        async with channel.stream_stream(FORWARD, pb.ForwardRequest, pb.ForwardReply) as call:
            with trio.move_on_after(0.05):
                await anext(call)  # nothing to read yet
            await call.send(pb.ForwardRequest(body_chunk=body))
            tries = 0
            while True:
                tries += 1
                # Longer and longer, so that some reads are cancelled within the message.
                with trio.move_on_after(0.0005 * tries):
                    assert (await anext(call)).body_chunk == body
                    break
            await call.send(pb.ForwardRequest(body_chunk=b"next"))
            assert (await anext(call)).body_chunk == b"next"
    assert tries > 1


async def test_timeout_is_a_failure_that_the_server_knows_of(channel: Channel) -> None:
    with trio.fail_after(20):
        known = float(await predict(channel, "deadline", timeout=15))
        assert 10 < known <= 15
        with pytest.raises(CallFailed) as caught:
            await predict(channel, "hang", timeout=0.2)
        assert caught.value.status == "DEADLINE_EXCEEDED"
        request = pb.PredictOptions(Prompt="hang", Tokens=1)
        async with channel.unary_stream(PREDICT_STREAM, request, pb.Reply, timeout=0.3) as replies:
            await anext(replies)
            with pytest.raises(CallFailed) as caught:
                await anext(replies)
        assert caught.value.status == "DEADLINE_EXCEEDED"
        assert await predict(channel, "still here") == b"still here"


async def test_metadata_arrives(channel: Channel) -> None:
    with trio.fail_after(20):
        reply = await channel.unary_unary(
            PREDICT, pb.PredictOptions(Prompt="metadata:x-mine"), pb.Reply, metadata={"x-mine": "some text"}
        )
    assert reply.message == b"some text"


async def test_longest_message_passes_and_a_longer_one_is_refused(channel: Channel) -> None:
    overhead = 5  # field number and length of Reply.message
    with trio.fail_after(60):
        assert len(await predict(channel, f"size:{MESSAGE_LIMIT_BYTES - overhead}", timeout=None)) > 50_000_000
        with pytest.raises(CallFailed) as caught:
            await predict(channel, f"size:{MESSAGE_LIMIT_BYTES}", timeout=None)
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        request = pb.PredictOptions(Prompt="short answer", NegativePrompt="x" * MESSAGE_LIMIT_BYTES)
        with pytest.raises(CallFailed) as caught:
            await channel.unary_unary(PREDICT, request, pb.Reply)
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        assert f"the limit of {MESSAGE_LIMIT_BYTES}" in caught.value.message
        assert await predict(channel, "still here") == b"still here"


async def test_unread_stream_does_not_hold_up_other_calls(channel: Channel) -> None:
    with trio.fail_after(20):
        request = pb.PredictOptions(Prompt="x" * 100_000, Tokens=100)
        async with channel.unary_stream(PREDICT_STREAM, request, pb.Reply) as replies:
            await anext(replies)
            await trio.sleep(0.3)  # until the stream's window is full; too short a wait cannot fail the test
            assert await predict(channel, "y" * 100_000) == b"y" * 100_000
            assert len([reply async for reply in replies]) == 99


@pytest.mark.parametrize("name", PEERS)
async def test_token_is_sent_and_never_shown(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(30):
        async with peer(name, token="s3cret") as address:
            async with open_channel(address, token="s3cret") as channel:
                assert await predict(channel, "hello") == b"hello"
                assert "s3cret" not in repr(channel)
            async with open_channel(address, token="wr0ng") as channel:
                # Longer than the window: the refusal arrives while most of it waits to be sent.
                with pytest.raises(CallFailed) as caught:
                    await predict(channel, "x" * 5_000_000)
                assert caught.value.status == "UNAUTHENTICATED"
                assert "wr0ng" not in str(caught.value)
            with pytest.raises(InvalidValue) as misuse:
                async with open_channel(address, token="with\nnewline"):
                    pass
            assert "newline" not in str(misuse.value)
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


async def test_nobody_listening_is_unavailable() -> None:
    with trio.fail_after(10):
        async with open_channel(f"127.0.0.1:{free_port()}") as channel:
            with pytest.raises(CallFailed) as caught:
                await predict(channel, "hello")
    assert (caught.value.status, caught.value.message) == ("UNAVAILABLE", "no connection: Connection refused")


@pytest.mark.parametrize("address", ["localhost", ":50051", "localhost:", "::1:50051", "localhost:70000", "[::1]"])
async def test_address_that_cannot_be_meant_is_refused(address: str) -> None:
    with pytest.raises(InvalidValue):
        async with open_channel(address):
            pass
