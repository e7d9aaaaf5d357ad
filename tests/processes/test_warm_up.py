"""Warm-ups of real processes: the model is loaded before the backend is ready, each time."""

from __future__ import annotations

import os
import signal

import attrs
import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from tests.processes.test_real_children import Collected
from trio_sup import BackendSpec, Cause, Choice, ExitStatus, events
from trio_sup.protocol import backend_pb2
from trio_sup.strategies import WarmUpTarget

pytestmark = pytest.mark.usefixtures("nothing_survives")


@attrs.frozen
class Load:
    """Calls LoadModel for one model."""

    model: str

    def budget(self, spec: BackendSpec) -> float:
        return 20

    async def warm_up(self, target: WarmUpTarget) -> None:
        options = backend_pb2.ModelOptions(Model=self.model)
        await target.channel.unary_unary("/backend.Backend/LoadModel", options, backend_pb2.Result)


def loading(model: str) -> BackendSpec:
    return BackendSpec(name="model", command=child_command("loads_in_its_only_worker"), warm_up=[Load(model)], grace=5)


async def test_a_restarted_backend_is_a_loaded_backend() -> None:
    output = Collected()
    policy = Choice("on-failure", delay=0.1, max_delay=0.2, jitter=0)
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(restart_policy=policy, on_output=output) as sup:
            stream = sup.events()
            backend = await sup.start(loading("compute 0.5"))
            assert (backend.start_seconds or 0) >= 0.5
            assert output.data.count(b"loading compute 0.5") == 1
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGKILL)
            await next_of(stream, events.BackendBackoff)
            again = await next_of(stream, events.BackendReady)
            assert again.start_seconds >= 0.5
            assert output.data.count(b"loading compute 0.5") == 2


async def test_one_that_dies_of_its_model_is_told_so() -> None:
    with trio.fail_after(40):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.DiedDuringStartup, match="killed by SIGSEGV"):
                await sup.start(loading("die"))
            (report,) = sup.exit_reports("model#0")
            assert (report.cause, report.status) == (Cause.EXITED, ExitStatus(signal=signal.SIGSEGV))
