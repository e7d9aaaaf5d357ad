"""The built-in ways to ask a backend to end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from ..hookspecs import hookimpl
from ..strategies import StopPolicy, StopTarget, complaints_name_fields, seconds

if TYPE_CHECKING:
    from .._values import BackendSpec

_SPARE = 1.0
"""Seconds on top of its own bounds, so that a policy that keeps to them is never cut short."""

_log = logging.getLogger("trio_sup.stop")


@attrs.frozen(field_transformer=complaints_name_fields)
class FreeThenTerminate:
    """Call Free, so that it lets go of its model in order; then the polite signal, and the grace period.

    Args:
        free_timeout: Seconds that Free may take. It is best effort: if it fails, the signal follows at once.

    Source: 5 s is the LocalAI worker's number.
    """

    free_timeout: float = attrs.field(default=5.0, converter=seconds)

    def budget(self, spec: BackendSpec) -> float:
        return self.free_timeout + spec.grace + _SPARE

    async def stop(self, target: StopTarget) -> None:
        with trio.move_on_after(self.free_timeout) as free_scope:
            try:
                await target.free()
            except Exception as error:
                _log.debug("%s: Free failed: %s", target.key, error)
        if free_scope.cancelled_caught:
            _log.debug("%s: Free took longer than %g s", target.key, self.free_timeout)
        await _terminate(target)


@attrs.frozen(field_transformer=complaints_name_fields)
class Drain:
    """Wait until those who use it have let go of it, so that no work is lost; then as `free-then-terminate`.

    Args:
        drain_timeout: Seconds that they are waited for.
        free_timeout: Seconds that Free may take.
    """

    drain_timeout: float = attrs.field(default=30.0, converter=seconds)
    free_timeout: float = attrs.field(default=5.0, converter=seconds)

    def budget(self, spec: BackendSpec) -> float:
        return self.drain_timeout + FreeThenTerminate(self.free_timeout).budget(spec)

    async def stop(self, target: StopTarget) -> None:
        with trio.move_on_after(self.drain_timeout) as drain_scope:
            await target.unleased()
        if drain_scope.cancelled_caught:
            _log.debug("%s: it was still in use after %g s", target.key, self.drain_timeout)
        await FreeThenTerminate(self.free_timeout).stop(target)


@attrs.frozen
class Terminate:
    """The polite signal, and the grace period."""

    def budget(self, spec: BackendSpec) -> float:
        return spec.grace + _SPARE

    async def stop(self, target: StopTarget) -> None:
        await _terminate(target)


@attrs.frozen
class Kill:
    """Ask nothing: the engine kills at once."""

    def budget(self, spec: BackendSpec) -> float:
        return _SPARE

    async def stop(self, target: StopTarget) -> None:
        await trio.lowlevel.checkpoint()


async def _terminate(target: StopTarget) -> None:
    target.signal()
    with trio.move_on_after(target.spec.grace):
        await target.exited()


@hookimpl(trylast=True)
def trio_sup_stop_policies() -> Mapping[str, Callable[..., StopPolicy]]:
    return {"free-then-terminate": FreeThenTerminate, "drain": Drain, "terminate": Terminate, "kill": Kill}
