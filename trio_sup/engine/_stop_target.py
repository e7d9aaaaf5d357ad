"""What a stop policy gets to see and do."""

from __future__ import annotations

import signal

import attrs
import trio

from .._values import BackendSpec, ProcessKey
from ..errors import CallFailed
from ..protocol import FREE, backend_pb2
from ._slot import Attempt, Slot


@attrs.frozen
class Target:
    """The attempt that is to end; see `trio_sup.strategies.StopTarget`."""

    key: ProcessKey
    spec: BackendSpec
    _attempt: Attempt
    _slot: Slot

    @property
    def pid(self) -> int:
        assert self._attempt.child is not None
        return self._attempt.child.pid

    async def free(self) -> None:
        # Only a process that was proven to be ours and to speak gRPC is called: whoever else sits on the port,
        # or a backend that is not a gRPC server, is left alone.
        if not self._attempt.speaks_grpc or self._attempt.channel is None:
            raise CallFailed(FREE, "UNAVAILABLE", "it has not answered gRPC in this attempt")
        await self._attempt.channel.unary_unary(FREE, backend_pb2.HealthMessage(), backend_pb2.Result)

    def signal(self, number: signal.Signals | None = None) -> None:
        assert self._attempt.child is not None
        if not self._attempt.exited.is_set():
            if self._attempt.channel is not None:
                self._attempt.channel.part()
            self._attempt.child.signal(number or self.spec.stop_signal, self.spec.signal_to)

    async def exited(self) -> None:
        await self._attempt.exited.wait()

    async def unleased(self) -> None:
        while self._slot.leases:
            await self._slot.unleased.wait()
        await trio.lowlevel.checkpoint()
