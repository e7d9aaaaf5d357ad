"""The operating system as the engine sees it: ports, processes, listeners.

The engine talks to a `System`; tests put a fake in its place (`trio_sup.testing.FakeSystem`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from .._progress import Usage
from .._reports import ExitStatus, Survivor
from ..strategies import Launch
from ._identity import Identity
from ._output import Stream

if TYPE_CHECKING:
    from ..bridge import Channel


class HeldPort(Protocol):
    """A port that the kernel gives to nobody else while this is open."""

    port: int

    def close(self) -> None: ...


@attrs.frozen
class TreeEnding:
    """What ending a tree came to: who is left, and how many outlived the leader."""

    survivors: tuple[Survivor, ...] = ()
    left_children: int = 0


class Child(Protocol):
    """A launched process with everything that descends from it."""

    pid: int
    environment: dict[str, str]

    def has_ended(self) -> bool: ...

    async def wait(self) -> ExitStatus:
        """Wait for the leader's end without reaping it. For one task only."""
        ...

    async def pump(self, stream: Stream, take: Callable[[bytes], None]) -> None:
        """Hand over what it writes until the end of file; when cancelled, what is there is still read."""
        ...

    def signal(self, number: signal.Signals, to: Literal["leader", "group"]) -> None: ...

    async def remember(self) -> None:
        """Note its descendants, so that they are still known when the leader is gone."""
        ...

    async def usage(self, *, exact_memory: bool = False) -> Usage | None:
        """What its tree has used so far; None if it could not be looked at. See `_tree_usage.usage_of`."""
        ...

    async def end_tree(self, timeout: float) -> TreeEnding:
        """SIGKILL whatever is left, and prove it gone, within *timeout* seconds."""
        ...

    async def survivors_ended(self) -> None:
        """Wait until what `end_tree` left alive has ended."""
        ...

    def out_of_memory(self) -> str | None:
        """What speaks for it that the kernel killed the leader for want of memory, in words; None if nothing does."""
        ...

    def close(self) -> None:
        """Reap the leader and let go of every descriptor."""
        ...


class System(Protocol):
    """Everything outside the engine that it needs."""

    def open(self, on_guard_lost: Callable[[int, int | None], None]) -> AbstractAsyncContextManager[None]: ...
    def hold_port(self, port: int) -> HeldPort | None: ...
    def launch(self, launch: Launch, attempt: int) -> Child: ...
    async def wait_for_listener(self, port: int) -> None: ...
    def identify(self, child: Child, port: int, channel: Channel) -> Identity | None: ...
    def channel(self, host: str, port: int, token: str | None) -> Channel: ...
