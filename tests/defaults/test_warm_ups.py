"""The built-in warm-ups, against real gRPC servers and against an imagined one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.bridge.peers import free_port, peer
from trio_sup import BackendSpec, CallFailed, Choice, InvalidOptions, InvalidValue, ProcessKey
from trio_sup._structuring import InvalidTable
from trio_sup.bridge import open_channel
from trio_sup.defaults._warm_ups import Call, LoadModel, WarmUpRefused
from trio_sup.engine._plugins import Plugins
from trio_sup.protocol import LOAD_MODEL
from trio_sup.protocol import backend_pb2 as pb
from trio_sup.strategies import Launch, WarmUp, WarmUpTarget
from trio_sup.testing import FakeBackend, FakeChild, FakeSystem

SPEC = BackendSpec(name="m", command=["m"])


def target(channel: Any, address: str = "127.0.0.1:1") -> WarmUpTarget:
    return WarmUpTarget(key=ProcessKey("m"), spec=SPEC, pid=1, address=address, channel=channel)


def imagined(behaviour: FakeBackend) -> tuple[WarmUpTarget, FakeChild]:
    system = FakeSystem(behaviour)
    launch = Launch(key=ProcessKey("m"), spec=SPEC, executable="m", arguments=["m"], environment={}, cwd=None, port=1)
    child = system.launch(launch, 1)
    return target(system.channel("127.0.0.1", 1, None)), child


@asynccontextmanager
async def serving(name: str, *, token: str = "", given: str | None = None) -> AsyncIterator[WarmUpTarget]:
    with trio.fail_after(60):
        async with (
            peer(name, token=token) as address,
            open_channel(address, token=given if given is not None else token or None) as channel,
        ):
            yield target(channel, address)


async def refusal(warm_up: WarmUp, at: WarmUpTarget) -> str:
    with pytest.raises(WarmUpRefused) as caught:
        await warm_up.warm_up(at)
    return str(caught.value)


# ---- real servers


async def test_a_model_is_loaded() -> None:
    async with serving("grpc_author") as at:
        before = await at.channel.unary_unary("/backend.Backend/Status", pb.HealthMessage(), pb.StatusResponse)
        await Call(rpc="LoadModel", request={"Model": "tiny"}).warm_up(at)
        after = await at.channel.unary_unary("/backend.Backend/Status", pb.HealthMessage(), pb.StatusResponse)
        assert (before.state, after.state) == (pb.StatusResponse.UNINITIALIZED, pb.StatusResponse.READY)
        await LoadModel(model="other").warm_up(at)
        request = pb.PredictOptions(Prompt="x", ModelIdentity="tiny")
        with pytest.raises(CallFailed, match="'other' is loaded"):
            await at.channel.unary_unary("/backend.Backend/Predict", request, pb.Reply)


async def test_an_answer_without_success_is_a_failure_with_its_message() -> None:
    async with serving("grpc_author") as at:
        for warm_up in (Call(rpc=LOAD_MODEL, request={"Model": "broken"}), LoadModel(model="broken")):
            assert await refusal(warm_up, at) == "LoadModel: loaded"


@pytest.mark.parametrize("name", ["grpc_core", "grpc_grpclib"])
async def test_a_failed_call_is_a_failure_with_status_and_message(name: str) -> None:
    async with serving(name) as at:
        text = await refusal(Call(rpc="Predict", request={"Prompt": "fail"}), at)
        assert text == "Predict: FAILED_PRECONDITION: model not loaded: größer"


async def test_an_exception_of_the_backend_is_a_failure() -> None:
    async with serving("grpc_author") as at:
        text = await refusal(Call(rpc="Predict", request={"Prompt": "raise"}), at)
        assert text == "Predict: INTERNAL: LookupError: a bug of mine"


@pytest.mark.parametrize("name", ["grpc_core", "grpc_grpclib"])
async def test_what_the_backend_does_not_offer_is_a_failure_unless_accepted(name: str) -> None:
    async with serving(name) as at:
        assert (await refusal(Call(rpc="LoadModel"), at)).startswith("LoadModel: UNIMPLEMENTED")
        assert (await refusal(LoadModel(model="m"), at)).startswith("LoadModel: UNIMPLEMENTED")
        await Call(rpc="LoadModel", accept_unimplemented=True).warm_up(at)
        # Nothing else is accepted.
        failing = Call(rpc="Predict", request={"Prompt": "fail"}, accept_unimplemented=True)
        assert (await refusal(failing, at)).startswith("Predict: FAILED_PRECONDITION")


@pytest.mark.parametrize("name", ["grpc_core", "grpc_grpclib", "grpc_author"])
async def test_a_stream_of_answers_is_read_to_its_end(name: str) -> None:
    async with serving(name) as at:
        await Call(rpc="PredictStream", request={"Prompt": "x", "Tokens": 300}).warm_up(at)
        bad = {"grpc_author": "abort"}.get(name, "fail")
        text = await refusal(Call(rpc="PredictStream", request={"Prompt": bad, "Tokens": 3}), at)
        assert text == "PredictStream: RESOURCE_EXHAUSTED: no more"


@pytest.mark.parametrize("name", ["grpc_core", "grpc_grpclib"])
@pytest.mark.parametrize("rpc", ["Predict", "PredictStream"])
async def test_a_call_that_takes_too_long_is_ended_and_the_server_is_told(name: str, rpc: str) -> None:
    async with serving(name) as at:
        text = await refusal(Call(rpc=rpc, request={"Prompt": "hang"}, timeout=0.3), at)
        assert text.startswith(f"{rpc}: DEADLINE_EXCEEDED")
        seen = await at.channel.unary_unary("/test.Peer/Cancelled", pb.PredictOptions(Tokens=1), pb.Reply)
        assert seen.message == rpc.encode()


async def test_the_token_goes_with_the_call_and_is_not_shown() -> None:
    async with serving("grpc_author", token="s3cret") as at:
        await LoadModel(model="m").warm_up(at)
    async with serving("grpc_author", token="s3cret", given="an0ther") as at:
        text = await refusal(LoadModel(model="m"), at)
        assert text.startswith("LoadModel: UNAUTHENTICATED")
        assert "an0ther" not in text


async def test_nobody_there_is_a_failure() -> None:
    with trio.fail_after(20):
        async with open_channel(f"127.0.0.1:{free_port()}") as channel:
            assert (await refusal(LoadModel(model="m"), target(channel))).startswith("LoadModel: UNAVAILABLE")


async def test_pages_of_text_are_cut() -> None:
    at, _ = imagined(FakeBackend(warm_up_error=CallFailed(LOAD_MODEL, "INTERNAL", "x" * 10**6)))
    text = await refusal(LoadModel(model="m"), at)
    assert text.startswith("LoadModel: INTERNAL: xxx")
    assert len(text) < 1100


# ---- an imagined server: what is sent, and when


async def test_what_is_sent_is_what_was_configured(autojump_clock: MockClock) -> None:
    at, child = imagined(FakeBackend())
    await Call(rpc="/backend.Backend/LoadModel", request={"Model": "m", "MMap": True}).warm_up(at)
    await LoadModel(model="m", options={"MMap": True}).warm_up(at)
    await Call(rpc="PredictStream", request={"Prompt": "p"}).warm_up(at)
    assert [call[1:] for call in child.calls] == [
        (LOAD_MODEL, pb.ModelOptions(Model="m", MMap=True)),
        (LOAD_MODEL, pb.ModelOptions(Model="m", MMap=True)),
        ("/backend.Backend/PredictStream", pb.PredictOptions(Prompt="p")),
    ]


@pytest.mark.parametrize("warm_up", [Call(rpc="LoadModel", timeout="7m"), LoadModel(model="m", timeout="7m")])
async def test_it_ends_at_its_timeout_within_its_budget(autojump_clock: MockClock, warm_up: WarmUp) -> None:
    at, _ = imagined(FakeBackend(warm_up_takes=10**6))
    began = trio.current_time()
    assert await refusal(warm_up, at) == "LoadModel: DEADLINE_EXCEEDED: no answer within 420 s"
    assert trio.current_time() - began == pytest.approx(420)
    assert 420 < warm_up.budget(SPEC) < 430


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (pb.Result(success=False, message="no memory"), "LoadModel: no memory"),
        (pb.Result(success=False), "LoadModel: it answered that it failed, and not why"),
        (pb.FineTuneJobResult(success=False, message="busy"), "LoadModel: busy"),
        (pb.Result(success=True, message="loaded"), None),
        (pb.Reply(message=b"whatever"), None),
    ],
)
async def test_every_kind_of_reply_that_tells_of_success_is_listened_to(reply: Any, text: str | None) -> None:
    class Answers:
        async def unary_unary(self, *_: object, **__: object) -> Any:
            await trio.lowlevel.checkpoint()
            return reply

    warm_up = LoadModel(model="m")
    if text is None:
        await warm_up.warm_up(target(Answers()))
    else:
        assert await refusal(warm_up, target(Answers())) == text


# ---- options


def test_an_rpc_is_named_or_given_by_its_path() -> None:
    paths = ["LoadModel", "/backend.Backend/LoadModel", "backend.Backend/LoadModel"]
    assert {Call(rpc=path) for path in paths} == {Call(rpc="LoadModel")}


@pytest.mark.parametrize(
    ("rpc", "why"),
    [
        ("loadmodel", "did you mean 'LoadModel'"),
        ("LoadModell", "did you mean 'LoadModel'"),
        ("/backend.Backend/Loadmodel", "did you mean 'LoadModel'"),
        ("xyzzy", "known are Health, Free, Predict"),
        ("", "known are Health"),
        ("/grpc.health.v1.Health/Check", "an RPC of backend.Backend"),
        ("Forward", "sends a stream of requests"),
        (5, "the name of an RPC"),
    ],
)
def test_an_rpc_that_cannot_be_called_is_refused(rpc: Any, why: str) -> None:
    with pytest.raises(InvalidValue, match=f"^rpc: .*{why}"):
        Call(rpc=rpc)


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_a_timeout_that_cannot_be_kept_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^timeout: "):
        Call(rpc="LoadModel", timeout=timeout)
    with pytest.raises(InvalidValue, match=r"^timeout: "):
        LoadModel(model="m", timeout=timeout)


@pytest.mark.parametrize("model", ["", " ", 5, "\ud800", "two\nlines"])
def test_a_model_that_is_no_name_is_refused(model: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^model: .* a model"):
        LoadModel(model=model)


@pytest.mark.parametrize(
    ("choice", "problems"),
    [
        (
            Choice("call", rpc="LoadModel", request={"Modle": "x", "Threads": "4"}),
            ["request.Modle: ModelOptions has no such field; did you mean 'Model'?", "request.Threads: expected"],
        ),
        (Choice("call", rpc="Status", request={"Model": "x"}), ["request.Model: HealthMessage has no such field"]),
        (Choice("call"), ["rpc: missing"]),
        (Choice("call", rpc="LoadModel", accept_unimplemented=1), ["accept_unimplemented: expected true or false"]),
        (Choice("call", rpc="LoadModel", request=[1]), ["request: expected a table"]),
        (Choice("load-model", model="m", options={"mmap": 1}), ["options.mmap: ModelOptions has no such field"]),
        (Choice("load-model", model="m", options={"Model": "n"}), ["options.Model: it is given as model"]),
        (Choice("load-model", options={"Threads": 1}), ["model: missing"]),
        (Choice("load-model", model="m", Threads=1), ["Threads: unknown key"]),
    ],
    ids=str,
)
def test_wrong_options_are_named_when_the_configuration_is_read(choice: Choice, problems: list[str]) -> None:
    with pytest.raises(InvalidOptions) as caught:
        Plugins().make("warm-up", choice)
    assert len(caught.value.problems) == len(problems)
    for problem, expected in zip(caught.value.problems, problems, strict=True):
        assert problem.startswith(expected)


def test_what_is_given_is_not_shared() -> None:
    request = {"Model": "m"}
    warm_up = Call(rpc="LoadModel", request=request)
    request["Model"] = "another"
    assert warm_up == Call(rpc="LoadModel", request={"Model": "m"})
    with pytest.raises(InvalidTable):
        Call(rpc="LoadModel", request={"Model": 5})
