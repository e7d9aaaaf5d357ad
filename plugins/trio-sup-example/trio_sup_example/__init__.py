"""A stop policy for backends that end by themselves once they are hung up on: ``hang-up-first``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

import attrs
import trio

from trio_sup import BackendSpec, hookimpl
from trio_sup.strategies import StopPolicy, StopTarget, complaints_name_fields, seconds

__all__ = ["HangUpFirst", "trio_sup_stop_policies"]


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class HangUpFirst:
    """SIGHUP, and a while for the backend to end by itself; then its polite signal, and its grace period.

    Args:
        patience: Seconds between SIGHUP and the polite signal, or text such as ``"2s"``.

    Raises:
        InvalidValue: *patience* is not a duration.
    """

    patience: float = attrs.field(default=2.0, converter=seconds)

    def budget(self, spec: BackendSpec) -> float:
        """Seconds the whole policy may take; one to spare, so that it is never cut short."""
        return self.patience + spec.grace + 1.0

    async def stop(self, target: StopTarget) -> None:
        """Ask twice. Cancellation: nothing is left behind; the engine goes on from there."""
        target.signal(signal.SIGHUP)
        with trio.move_on_after(self.patience):
            await target.exited()
            return
        target.signal()
        with trio.move_on_after(target.spec.grace):
            await target.exited()


@hookimpl
def trio_sup_stop_policies() -> Mapping[str, Callable[..., StopPolicy]]:
    """What this plugin offers, by name."""
    return {"hang-up-first": HangUpFirst}
