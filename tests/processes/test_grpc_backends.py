"""Readiness, proven against independent gRPC servers, and against what only looks like one."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import trio

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Phase, Readiness
from trio_sup.bridge import open_channel
from trio_sup.engine import Output
from trio_sup.protocol import backend_pb2

pytestmark = pytest.mark.usefixtures("nothing_survives")

SERVERS = ["grpc_core", "grpc_grpclib", "raw_h2"]
STORE = [sys.executable, "-m", "trio_sup.backends.store"]
HEALTH = "/backend.Backend/Health"


@pytest.mark.parametrize("server", SERVERS)
async def test_ready_means_that_health_answers(server: str) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(BackendSpec(name="x", command=child_command(server, "--delay", "0.3"), grace=5))
            assert 0.3 <= (backend.start_seconds or 0) < 10
            async with sup.channel(backend.key) as channel:
                reply = await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)
                assert reply.message == b"OK"
            (report,) = await sup.stop("x")
            assert report.report is not None
            assert not report.report.killed


async def test_a_server_that_waits_for_its_clients_to_hang_up_is_not_kept_waiting() -> None:
    spec = BackendSpec(name="x", command=child_command("raw_h2", "--patient"), grace=20)
    with trio.fail_after(15):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(spec)
            (report,) = await sup.stop("x")
            assert report.report is not None
            assert report.report.status == trio_sup.ExitStatus(code=0)


@pytest.mark.parametrize("server", [*SERVERS, "store"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "localhost"])
async def test_whatever_address_it_binds(server: str, host: str) -> None:
    command = STORE if server == "store" else child_command(server)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(BackendSpec(name="x", command=command, host=host, grace=5, identity="strict"))
            assert backend.phase is Phase.READY


async def test_a_token_is_given_to_the_backend_and_to_every_call() -> None:
    spec = BackendSpec(name="store", command=STORE, token="s3cret", grace=5)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec)
            async with sup.channel("store#0") as channel:
                await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)
            assert backend.address is not None
            async with open_channel(backend.address) as bare:
                with pytest.raises(trio_sup.CallFailed, match="UNAUTHENTICATED"):
                    await bare.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)


async def test_a_token_that_the_environment_brings_is_used_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAI_GRPC_AUTH_TOKEN", "from outside")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(BackendSpec(name="store", command=STORE, grace=5))


async def test_grpc_health_as_probe() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(BackendSpec(name="x", command=STORE, readiness=Readiness(probe="grpc-health"), grace=5))


KINDS = ["bytes", "half-frame", "http1", "tls", "push", "silence", "wrong-message", "rst", "goaway", "hang-up"]


async def test_nonsense_fails_its_own_probe_only() -> None:
    async def never_ready(sup: trio_sup.Supervisor, kind: str) -> None:
        spec = BackendSpec(
            name="garbage",
            command=child_command("raw_garbage", "--kind", kind),
            readiness=Readiness(timeout=3, call_timeout=0.5),
            grace=1,
        )
        with pytest.raises(trio_sup.NotReadyInTime) as caught:
            await sup.start(spec, model=kind)
        assert caught.value.last_health_error

    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(BackendSpec(name="store", command=STORE, grace=5))
            async with trio.open_nursery() as nursery:
                for kind in KINDS:
                    nursery.start_soon(never_ready, sup, kind)
            assert [str(backend.key) for backend in sup.backends] == ["store#0"]
            async with sup.channel("store#0") as channel:
                await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)


async def test_free_is_called_before_the_polite_signal() -> None:
    seen: list[bytes] = []

    def take(output: Output) -> None:
        seen.append(output.data)

    with trio.fail_after(30):
        async with trio_sup.open_supervisor(on_output=take) as sup:
            await sup.start(BackendSpec(name="x", command=child_command("says_free"), grace=5))
            await sup.stop("x")
    assert b"".join(seen).count(b"Free was called") == 1


async def test_a_free_that_hangs_is_bounded() -> None:
    policy = {"strategy": "free-then-terminate", "free_timeout": 0.3}
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(stop_policy=policy) as sup:
            await sup.start(BackendSpec(name="x", command=child_command("says_free", "--hang"), grace=1))
            began = trio.current_time()
            (report,) = await sup.stop("x")
            assert report.gone
            assert 0.3 <= trio.current_time() - began < 3


async def test_many_replicas_at_once() -> None:
    spec = BackendSpec(name="store", command=child_command("raw_h2"), grace=5)
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            async with trio.open_nursery() as nursery:
                for replica in range(20):
                    nursery.start_soon(partial(sup.start, spec, replica=replica))
            assert all(backend.phase is Phase.READY for backend in sup.backends)
