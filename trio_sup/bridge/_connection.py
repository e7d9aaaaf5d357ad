"""grpclib's connection, with an end that every call notices."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpclib.client
from grpclib.protocol import H2Protocol

# hpack writes every header to its log, tokens included.
logging.getLogger("hpack").setLevel(logging.INFO)

_SETTINGS = 4  # the type of the frame that HTTP/2 begins with


class Connection(H2Protocol):
    """One connection to a server.

    - What does not begin like HTTP/2 ends it at once: h2 would first wait for as much as it takes for a frame's length.
    - Calls that wait for their turn when it ends are woken, and fail; grpclib ends only those that had begun.
    """

    _head = b""

    def data_received(self, data: bytes) -> None:
        if len(self._head) <= 3:
            self._head += data[:4]
            if len(self._head) > 3 and self._head[3] != _SETTINGS:
                self.processor.close("Protocol error")
                return
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.connection._connection.send_headers = _refuse  # type: ignore[method-assign]  # h2 would begin another call
        self.connection.write_ready.set()
        self.connection.stream_close_waiter.set()


class GrpclibChannel(grpclib.client.Channel):
    """Makes such connections."""

    def _protocol_factory(self) -> H2Protocol:
        return Connection(grpclib.client.Handler(), self._config, self._h2_config)

    async def _create_connection(self) -> Any:
        protocol = await super()._create_connection()
        if protocol.connection.is_closing():
            raise ConnectionResetError("the server hung up, or does not speak HTTP/2")
        return protocol


def _refuse(*arguments: object, **options: object) -> NoReturn:
    raise ConnectionResetError("connection lost")
