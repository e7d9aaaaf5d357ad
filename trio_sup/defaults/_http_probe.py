"""The probe that makes one HTTP request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs
import trio

from ..errors import InvalidValue
from ..protocol.address import join_address
from ..strategies import ProbeTarget, complaints_name_fields
from ._check_failed import CheckFailed, shortened

RESPONSE_BYTES = 64 * 1024
"""How much of a response is read, its head included."""

FAREWELL_TIMEOUT = 0.1
"""Seconds spent reading a body nobody asked for: closing with unread data resets the connection, and a simple server
may die of that. A stream without end costs no more than this."""

_RANGE = re.compile(r"(\d{3})-(\d{3})")


def _to_statuses(value: object) -> frozenset[int]:
    if isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        numbers: list[Any] = list(range(int(match[1]), int(match[2]) + 1))
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        numbers = list(value)
    else:
        numbers = [value]
    if not numbers or not all(type(number) is int and 100 <= number <= 599 for number in numbers):
        raise InvalidValue(value, 'expected a status such as 200, a list of them, or a range such as "200-399"')
    return frozenset(numbers)


def _to_path(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value):
        raise InvalidValue(value, "a path begins with / and has no spaces; escape other characters with %")
    return value


def _to_port(value: object) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value <= 65535):
        raise InvalidValue(value, "expected a port from 1 to 65535")
    return value


def _to_host(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._:%-]+", value)):
        raise InvalidValue(value, "expected a host name or an IP address without port")
    return value


def _to_body(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidValue(value, "expected a text that must occur in the body")
    return value


@attrs.frozen(field_transformer=complaints_name_fields)
class HttpProbe:
    """Ready when a GET request is answered as it should be. Redirects are not followed.

    Args:
        path: What to ask for.
        status: The good ones: one, a list, or a range such as ``"200-399"``.
        body: A text that must occur in the body, within the first 64 KiB of the response.
        host: Whom to ask; by default the host of the backend.
        port: By default the port of the backend. Another one is polled, and nobody proves whose it is.
    """

    path: str = attrs.field(default="/", converter=_to_path)
    status: frozenset[int] = attrs.field(default="200-399", converter=_to_statuses, repr=False)
    body: str | None = attrs.field(default=None, converter=_to_body)
    host: str | None = attrs.field(default=None, converter=_to_host)
    port: int | None = attrs.field(default=None, converter=_to_port)
    speaks_grpc = False

    @property
    def needs_listener(self) -> bool:
        return self.port is None

    async def check(self, target: ProbeTarget) -> None:
        host, port = self.host or target.host, self.port or target.port
        async with await trio.open_tcp_stream(host, port) as stream:
            exchange = _Exchange(stream)
            status = await exchange.ask(self.path, join_address(host, port))
            good = status in self.status
            found = not good or self.body is None or await exchange.body_has(self.body.encode())
            await exchange.say_farewell()
        if not good:
            raise CheckFailed(f"GET {self.path} answered {status}")
        if not found:
            raise CheckFailed(f"the body of GET {self.path} does not contain {shortened(repr(self.body))}")


class _Exchange:
    """One request and what answers it, bounded in size; the caller bounds the time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        import h11  # only those who use this probe pay for it

        self._h11 = h11
        self._stream = stream
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=RESPONSE_BYTES)
        self._left = RESPONSE_BYTES

    async def ask(self, path: str, authority: str) -> int:
        """Send the request, and tell the status of the answer."""
        h11 = self._h11
        headers = [("Host", authority), ("User-Agent", "trio-sup"), ("Accept", "*/*"), ("Connection", "close")]
        request = self._connection.send(h11.Request(method="GET", target=path, headers=headers))
        try:
            await self._stream.send_all((request or b"") + (self._connection.send(h11.EndOfMessage()) or b""))
            event = await self._next()
            while isinstance(event, h11.InformationalResponse):
                event = await self._next()
        except h11.RemoteProtocolError as error:
            raise CheckFailed(f"GET {path} was not answered with HTTP: {error}") from error
        except trio.BrokenResourceError as error:
            raise CheckFailed(f"GET {path} was not answered: the connection broke") from error
        if not isinstance(event, h11.Response):
            raise CheckFailed(f"GET {path} was not answered: the head has no end within {RESPONSE_BYTES} bytes")
        status: int = event.status_code
        return status

    async def body_has(self, text: bytes) -> bool:
        """Whether *text* occurs in what can be read of the body."""
        body = bytearray()
        try:
            while (event := await self._next()) is not None and not isinstance(event, self._h11.EndOfMessage):
                if isinstance(event, self._h11.Data):
                    # Only where it can be new: a body in tiny pieces must not cost the square of its length.
                    start = max(0, len(body) - len(text) + 1)
                    body += event.data
                    if body.find(text, start) >= 0:
                        return True
        except self._h11.RemoteProtocolError as error:
            raise CheckFailed(f"the body broke off: {error}") from error
        return False

    async def say_farewell(self) -> None:
        """Read on to the end, as far as that is cheap."""
        with trio.move_on_after(FAREWELL_TIMEOUT):
            try:
                while self._connection.their_state is self._h11.SEND_BODY and await self._next() is not None:
                    pass
            except (self._h11.RemoteProtocolError, trio.BrokenResourceError):
                pass  # the status was all we wanted

    async def _next(self) -> Any:
        """The next event; None when so much was read that enough is enough."""
        while True:
            event = self._connection.next_event()
            if event is not self._h11.NEED_DATA:
                return event
            if self._left <= 0:
                return None
            data = await self._stream.receive_some(min(self._left, 16384))
            self._left -= len(data)
            self._connection.receive_data(data)
