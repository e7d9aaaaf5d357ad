"""What the helper promises to authors, seen by grpcio's client."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from tests.backends.serving import AUTHOR, TIMEOUT, Client, client_of, serving
from trio_sup.protocol import MESSAGE_LIMIT_BYTES, health_pb2
from trio_sup.protocol import backend_pb2 as pb


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(AUTHOR) as (_, address), client_of(address) as client:
        yield client


def predict(client: Client, prompt: str, identity: str = "") -> bytes:
    return client.call("Predict", pb.PredictOptions(Prompt=prompt, ModelIdentity=identity), pb.Reply).message


def test_health_free_and_status_are_answered_by_every_backend(client: Client) -> None:
    assert client.call("Health", pb.HealthMessage(), pb.Reply) == pb.Reply(message=b"OK")
    assert client.call("Free", pb.HealthMessage(), pb.Result).success
    assert 1e6 < client.call("Status", pb.HealthMessage(), pb.StatusResponse).memory.total < 1e9


def test_methods_answer_the_calls_of_their_name(client: Client) -> None:
    assert predict(client, "hello") == b"hello"
    replies = client.stream("PredictStream", pb.PredictOptions(Tokens=5), pb.Reply)
    assert [reply.tokens for reply in replies] == [0, 1, 2, 3, 4]
    requests = iter([pb.ForwardRequest(body_chunk=b"abc"), pb.ForwardRequest(body_chunk=b"xy")])
    chunks = [reply.body_chunk for reply in client.chat("Forward", requests, pb.ForwardReply)]
    assert chunks == [b"cba", b"yx"]


def test_methods_not_defined_are_unimplemented(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.call("Embedding", pb.PredictOptions(), pb.EmbeddingResult)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Embedding" in caught.value.details()


def test_abort_gives_status_and_message(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(client, "abort")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "model not loaded")
    with pytest.raises(grpc.RpcError) as caught:
        list(client.stream("PredictStream", pb.PredictOptions(Tokens=2, Prompt="abort"), pb.Reply))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")


def test_handler_that_raises_answers_internal_and_the_server_lives_on(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(client, "raise")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "LookupError: a bug of mine")
    assert predict(client, "still here") == b"still here"


def test_messages_beyond_the_limit_are_refused_both_ways(client: Client) -> None:
    assert len(predict(client, f"size {MESSAGE_LIMIT_BYTES - 5}")) > 50_000_000
    for prompt, padding in ((f"size {MESSAGE_LIMIT_BYTES}", 0), ("short answer", MESSAGE_LIMIT_BYTES)):
        with pytest.raises(grpc.RpcError) as caught:
            client.call("Predict", pb.PredictOptions(Prompt=prompt, NegativePrompt="x" * padding), pb.Reply)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert predict(client, "still here") == b"still here"


def test_requests_for_another_model_are_refused_once_one_is_loaded() -> None:
    with serving(AUTHOR) as (_, address), client_of(address) as client:
        assert predict(client, "x", identity="any") == b"x"  # nothing is loaded yet
        assert not client.call("LoadModel", pb.ModelOptions(Model="broken"), pb.Result).success
        assert predict(client, "x", identity="any") == b"x"
        assert client.call("LoadModel", pb.ModelOptions(Model="mine"), pb.Result).success
        assert client.call("Status", pb.HealthMessage(), pb.StatusResponse).state == pb.StatusResponse.READY
        assert predict(client, "x") == predict(client, "x", identity="mine") == b"x"
        with pytest.raises(grpc.RpcError) as caught:
            predict(client, "x", identity="other")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert "model identity mismatch" in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            list(client.stream("PredictStream", pb.PredictOptions(ModelIdentity="other"), pb.Reply))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_every_call_needs_the_token_if_there_is_one() -> None:
    calls = [
        ("Health", pb.HealthMessage()),
        ("Predict", pb.PredictOptions()),
        ("Embedding", pb.PredictOptions()),  # not offered: that is not told to strangers
        ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest()),
    ]
    with serving(AUTHOR, token="s3cret") as (_, address):
        with client_of(address, token="s3cret") as client:
            assert client.call("Health", pb.HealthMessage(), pb.Reply).message == b"OK"
        with client_of(address) as client:
            for given in (None, "s3cret", "Bearer ", "Bearer s3creT", "bearer s3cret"):
                client.metadata = [("authorization", given)] if given else []
                for name, request in calls:
                    with pytest.raises(grpc.RpcError) as caught:
                        client.call(name, request, pb.Reply)
                    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
                    assert "s3cret" not in caught.value.details()


def test_standard_health_service_says_serving_until_the_stop() -> None:
    kinds = health_pb2.HealthCheckResponse
    with serving(AUTHOR) as (process, address), client_of(address) as client:
        for service in ("", "backend.Backend"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert client.call("/grpc.health.v1.Health/Check", request, kinds).status == kinds.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            client.call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="other"), kinds)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        watch = client.stream("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest(), kinds)
        assert next(watch).status == kinds.SERVING
        thread = threading.Thread(target=predict, args=(client, "sleep 1"))
        thread.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.terminate()
        assert next(watch).status == kinds.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            predict(client, "too late")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        thread.join(TIMEOUT)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_polite_signal_lets_calls_in_flight_finish(number: signal.Signals) -> None:
    answers = []
    with serving(AUTHOR) as (process, address), client_of(address) as client:
        thread = threading.Thread(target=lambda: answers.append(predict(client, "sleep 1")))
        thread.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
        thread.join(TIMEOUT)
    assert answers == [b"sleep 1"]


@pytest.mark.slow
def test_stop_waits_at_most_its_grace() -> None:
    codes = []

    def call(client: Client) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            predict(client, "sleep 60")
        codes.append(caught.value.code())

    with serving(AUTHOR) as (process, address), client_of(address) as client:
        thread = threading.Thread(target=call, args=(client,))
        thread.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        began = time.monotonic()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert 4.5 < time.monotonic() - began < 10
        thread.join(TIMEOUT)
    assert len(codes) == 1


def test_idle_backend_stops_at_once_although_clients_are_connected() -> None:
    with serving(AUTHOR) as (process, address), client_of(address) as client:
        assert predict(client, "x") == b"x"
        began = time.monotonic()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert time.monotonic() - began < 3


def test_ipv6_address_is_served() -> None:
    with serving(AUTHOR, address="[::1]:0") as (_, address):
        assert address.startswith("[::1]:")
        with client_of(address) as client:
            assert predict(client, "x") == b"x"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AUTHOR, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.mark.parametrize("arguments", [["--addr", "nonsense"], ["--addr", "localhost:99999"], ["--address", "x:1"]])
def test_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_port_that_is_taken_ends_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("--addr", address)
    assert done.returncode == 1
    assert address in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_helper_does_not_import_trio() -> None:
    code = "import sys, trio_sup.backends.store; assert 'trio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT)
