"""The loop that channels live on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio_asyncio

from ..errors import InvalidValue
from ..protocol.address import split_address
from ._channel import Channel

_log = logging.getLogger("trio_sup.bridge")

# A Ctrl-C that hits while these run would end the loop with calls in flight, and those would wait for ever. Trio
# raises it in the program's main task instead.
for _task in (trio_asyncio.TrioEventLoop._main_loop, trio_asyncio.TrioEventLoop._io_task):
    trio.lowlevel.enable_ki_protection(_task)


class Bridge:
    """Makes channels. Cannot be built by hand: see `open_bridge`."""

    def __init__(self, loop: trio_asyncio.TrioEventLoop) -> None:
        self._loop = loop
        self._channels: set[Channel] = set()
        self._closed = False

    def channel(self, host: str, port: int, *, token: str | None = None) -> Channel:
        """A channel to ``host:port``, for any task; nothing is connected yet. It lasts until closed, or as the bridge
        does; after that, its calls fail with UNAVAILABLE.

        Args:
            token: Sent with each call as ``authorization: Bearer <token>``. Never shown.

        Raises:
            InvalidValue: The token cannot be sent.
        """
        channel = Channel(self._loop, host, port, token, self._channels.discard)
        self._channels.add(channel)
        if self._closed:
            channel._shut()
        return channel

    def _shut(self) -> None:
        self._closed = True
        for channel in list(self._channels):
            channel._shut()


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Bridge]:
    """Open the loop for channels; leaving the block closes them all, and calls still running fail with UNAVAILABLE.

    An idle bridge does nothing: no timer, no polling.
    """
    failure: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        # By default one garbage answer ends the program: what escapes a callback is raised into the loop's nursery.
        loop.set_exception_handler(_log_only)
        bridge = Bridge(loop)
        try:
            yield bridge
        except Exception as error:
            failure = error  # raised below: the loop's nurseries would wrap it into groups
        finally:
            bridge._shut()
    if failure is not None:
        raise failure


def _log_only(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.debug("%s", context.get("message"), exc_info=context.get("exception"))


@asynccontextmanager
async def open_channel(address: str, *, token: str | None = None) -> AsyncIterator[Channel]:
    """Open a channel to ``host:port`` on a loop of its own, for programs that have no supervisor at hand.

    Raises:
        InvalidValue: The address or the token makes no sense.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise InvalidValue(address, str(error)) from None
    async with open_bridge() as bridge:
        yield bridge.channel(host, port, token=token)
