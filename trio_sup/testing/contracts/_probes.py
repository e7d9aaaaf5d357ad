"""The contract of probes."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio

from ..._values import BackendSpec, ProcessKey, Readiness
from ...bridge import open_channel
from ...engine import open_supervisor
from ...errors import NotReadyInTime
from ...strategies import Probe, ProbeTarget
from .._scripted import scripted_backend
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, if_promised, leaving_nothing, longest_step, run_real

_TOKEN = "contract-t0ken"


def _target(spec: BackendSpec, port: int, channel: Any, call_timeout: float) -> ProbeTarget:
    return ProbeTarget(
        key=ProcessKey("contract"),
        spec=spec,
        pid=os.getpid(),
        host="127.0.0.1",
        port=port,
        address=f"127.0.0.1:{port}",
        channel=channel,
        environment=dict(os.environ),
        call_timeout=call_timeout,
    )


@asynccontextmanager
async def _target_on(port: int, call_timeout: float = 5.0) -> AsyncIterator[ProbeTarget]:
    spec = scripted_backend(name="contract", token=_TOKEN)
    async with open_channel(f"127.0.0.1:{port}", token=_TOKEN) as channel:
        yield _target(spec, port, channel, call_timeout)


@asynccontextmanager
async def _running(options: Mapping[str, Any]) -> AsyncIterator[int]:
    """A scripted backend that listens; tells its port."""
    spec = scripted_backend(name="contract", token=_TOKEN, readiness=Readiness(probe="tcp"), grace=0.2, **options)
    async with open_supervisor(install_lock="memory", ports="ephemeral", stop_policy="kill") as sup:
        backend = await sup.start(spec)
        assert backend.address is not None
        yield int(backend.address.rpartition(":")[2])


@asynccontextmanager
async def _listener() -> AsyncIterator[socket.socket]:
    """Listens, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        await trio.lowlevel.checkpoint()
        yield listener


async def _failure_of(probe: Probe, target: ProbeTarget) -> Exception | None:
    """What the check raises, bounded as the engine bounds it."""
    check: Callable[[ProbeTarget], Awaitable[object]] = probe.check
    with trio.move_on_after(target.call_timeout) as budget_scope:
        try:
            returned = await check(target)
        except Exception as error:
            return error
        assert returned is None, f"check() returned {returned!r}: it must return nothing, and raise if it fails"
    return TimeoutError("it took longer than call_timeout") if budget_scope.cancelled_caught else None


class ProbeContract(StrategyContract):
    """Every probe must pass these.

    Attributes:
        good: Options of `scripted_backend` with which the check passes.
        bad: Options with which a backend listens, but is not ready.
        talks: The check talks to the backend's port, and so fails if nothing answers there.
    """

    kind = "probe"
    good: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    bad: ClassVar[Sequence[Mapping[str, Any]]] = ()
    talks: ClassVar[bool] = True

    def make(self) -> Probe:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @pytest.mark.parametrize("name", ["needs_listener", "speaks_grpc"])
    def test_it_says_what_it_needs_and_proves(self, name: str) -> None:
        assert type(getattr(self.make(), name)) is bool

    def test_one_that_proves_grpc_needs_a_listener(self) -> None:
        probe = self.make()
        assert probe.needs_listener or not probe.speaks_grpc

    @pytest.mark.parametrize("instead", ["http", "mute"])
    def test_one_that_proves_grpc_fails_where_something_else_listens(self, instead: str) -> None:
        async def play() -> None:
            options: dict[str, Any] = {"http": 200} if instead == "http" else {"mute": True}
            async with _running(options) as port, _target_on(port, call_timeout=1.0) as target:
                assert await _failure_of(self.make(), target) is not None, "it passes, so speaks_grpc must be False"

        if self.make().speaks_grpc:
            run_real(play)

    @pytest.mark.parametrize("checks", [1, 3])
    def test_it_passes_for_a_good_backend_each_time(self, checks: int) -> None:
        async def play() -> None:
            probe = self.make()
            for options in self.good:
                async with _running(options) as port, _target_on(port) as target:
                    for _ in range(checks):
                        assert await _failure_of(probe, target) is None

        with leaving_nothing(self.directory):
            run_real(play)

    def test_it_blocks_nobody(self) -> None:
        async def play() -> None:
            async with _running(self.good[0]) as port, _target_on(port) as target:
                took = [await longest_step(_failure_of, self.make(), target) for _ in range(5)]
            assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s in one step: everything else waits for it"

        run_real(play)

    def test_checks_at_the_same_time_do_not_disturb_each_other(self) -> None:
        async def play() -> None:
            probe, failures = self.make(), []

            async def check(target: ProbeTarget) -> None:
                failures.append(await _failure_of(probe, target))

            async with (
                _running(self.good[0]) as port,
                _target_on(port) as target,
                trio.open_nursery() as nursery,
            ):
                for _ in range(5):
                    nursery.start_soon(check, target)
            assert failures == [None] * 5

        with leaving_nothing(self.directory):
            run_real(play)

    def test_it_fails_with_a_reason_for_a_bad_backend(self) -> None:
        async def play() -> None:
            for options in self.bad:
                async with _running(options) as port, _target_on(port, call_timeout=1.0) as target:
                    failure = await _failure_of(self.make(), target)
                    assert failure is not None, f"it passes for {options}"
                    assert str(failure)
                    assert _TOKEN not in str(failure), "the reason is shown, and the token must never be"

        with leaving_nothing(self.directory):
            run_real(play)

    @if_promised("talks")
    def test_it_fails_if_nothing_listens(self) -> None:

        async def play() -> None:
            async with _listener() as listener:
                port = listener.getsockname()[1]
            async with _target_on(port) as target:
                failure = await _failure_of(self.make(), target)
                assert failure is not None
                assert str(failure)
                assert _TOKEN not in str(failure)

        with leaving_nothing(self.directory):
            run_real(play)

    @if_promised("talks")
    def test_it_fails_if_nobody_answers(self) -> None:

        async def play() -> None:
            async with _listener() as listener, _target_on(listener.getsockname()[1], call_timeout=0.5) as target:
                assert await _failure_of(self.make(), target) is not None

        with leaving_nothing(self.directory):
            run_real(play)

    @if_promised("talks")
    def test_it_fails_if_the_answer_is_garbage(self) -> None:

        async def play() -> None:
            async with _running({"garbage": True}) as port, _target_on(port, call_timeout=2.0) as target:
                failure = await _failure_of(self.make(), target)
                assert failure is not None
                assert len(str(failure)) < 2000, "the reason is shown to people"

        with leaving_nothing(self.directory):
            run_real(play)

    @pytest.mark.parametrize("after", [0.0, 0.001, 0.02, 0.1])
    @pytest.mark.parametrize("answers", [True, False])
    def test_cancelled_it_ends_at_once_and_leaves_nothing(self, answers: bool, after: float) -> None:
        async def cancel_a_check(port: int) -> None:
            async with _target_on(port) as target:
                began = trio.current_time()
                with trio.move_on_after(after):
                    await _failure_of(self.make(), target)
                assert trio.current_time() - began < after + 2.0

        async def play() -> None:
            if answers:
                async with _running(self.good[0]) as port:
                    await cancel_a_check(port)
            else:
                async with _listener() as listener:
                    await cancel_a_check(listener.getsockname()[1])

        with leaving_nothing(self.directory):
            run_real(play)

    def test_cancelled_again_and_again_it_still_works(self) -> None:
        async def play() -> None:
            probe, dice = self.make(), random.Random(1)
            async with _running(self.good[0]) as port, _target_on(port) as target:
                for _ in range(10):
                    with trio.move_on_after(dice.random() * 0.02):
                        await _failure_of(probe, target)
                assert await _failure_of(probe, target) is None

        with leaving_nothing(self.directory):
            run_real(play)

    def test_a_supervisor_takes_a_good_backend_for_ready(self) -> None:
        async def play() -> None:
            for options in self.good:
                spec = scripted_backend(readiness=Readiness(probe=self.make()), token=_TOKEN, grace=0.2, **options)
                async with open_supervisor(install_lock="memory", ports="ephemeral") as sup:
                    await sup.start(spec)
                    assert sup.get_address(ProcessKey(spec.name))

        with leaving_nothing(self.directory):
            run_real(play)

    def test_a_supervisor_does_not_take_a_bad_backend_for_ready(self) -> None:
        async def play() -> None:
            async def start(number: int, options: Mapping[str, Any]) -> None:
                readiness = Readiness(probe=self.make(), timeout=1.5, call_timeout=0.5)
                spec = scripted_backend(name=f"bad-{number}", readiness=readiness, token=_TOKEN, grace=0.2, **options)
                with pytest.raises(NotReadyInTime):
                    await sup.start(spec)

            async with (
                open_supervisor(install_lock="memory", ports="ephemeral", stop_policy="kill") as sup,
                trio.open_nursery() as nursery,
            ):
                for number, options in enumerate(self.bad):
                    nursery.start_soon(start, number, options)

        with leaving_nothing(self.directory):
            run_real(play)
