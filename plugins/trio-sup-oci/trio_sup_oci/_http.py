"""Pieces of speaking HTTP with registries: bounded bodies, refusals in words, waits between tries."""

from __future__ import annotations

import email.utils
import http
import json
import random
import ssl
import time
from collections.abc import AsyncIterator

import attrs
import httpx2
import trio

LARGEST_REFUSAL = 64 * 2**10
TEMPORARY = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
"""Statuses after which trying again may help."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds between the first two tries, about; and between any two at most, whatever a server asks for."""


class TooLong(Exception):
    """A body is longer than what it may be."""


async def read_bounded(response: httpx2.Response, limit: int) -> bytes:
    """The body as it came, and the connection given back.

    Raises:
        TooLong: It has more than *limit* bytes.
    """
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    bounded = response.stream = BoundedStream(response.stream, limit)
    try:
        body = b"".join([chunk async for chunk in response.aiter_raw()])
    finally:
        await response.aclose()
    if bounded.exceeded:
        raise TooLong
    return body


class BoundedStream(httpx2.AsyncByteStream):
    """A body of which only the beginning is read, whoever reads it.

    Attributes:
        exceeded: Whether there was more than *limit* bytes.
    """

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self.exceeded = False
        self._inner = inner
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                if self.exceeded:
                    continue
                self._left -= len(chunk)
                if self._left < 0:
                    self.exceeded = True
                    # Nobody closes the generators below this one if they are left half-way, so they are used up:
                    # on a closed connection that does not take long.
                    await self._inner.aclose()
                else:
                    yield chunk
        except (httpx2.TransportError, httpx2.StreamError, trio.ClosedResourceError):
            if not self.exceeded:
                raise

    async def aclose(self) -> None:
        await self._inner.aclose()


def distrust(error: BaseException) -> str | None:
    """Why the certificate of a server is not trusted, if that is the matter; None if it is something else."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message or str(seen)
        seen = seen.__cause__ or seen.__context__
    return None


def in_words(error: BaseException) -> str:
    """What *error* says of a failed request; if it says nothing, what the nearest of its causes does."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return f"{seen}; `insecure_registries` lists those that may be talked to without encryption"
        if text := str(seen):
            return text
        seen = seen.__cause__ or seen.__context__
    return type(error).__name__


async def refusal(response: httpx2.Response) -> str:
    """Why a server refused, in its own words as far as it has any; the body is read."""
    status = f"{response.status_code} {_phrase(response.status_code)}".strip()
    try:
        table = json.loads(await read_bounded(response, LARGEST_REFUSAL))
        said = next(str(error["message"]) for error in table["errors"] if error.get("message"))
    except (TooLong, ValueError, RecursionError, KeyError, TypeError, AttributeError, StopIteration):
        said = ""
    except httpx2.TransportError:
        said = ""
    # What a server says goes to a terminal: no control characters.
    said = "".join(character if character.isprintable() else " " for character in said[:300]).strip()
    return f"{status} ({said})" if said else status


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def asked_to_wait(response: httpx2.Response) -> float | None:
    """Seconds that ``Retry-After`` asks for; None if it asks for nothing that can be read."""
    value: str = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        at = email.utils.parsedate_to_datetime(value)
        return max(at.timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


@attrs.frozen(kw_only=True)
class Tries:
    """How often something that may only be down for a while is tried again, and how long is waited in between."""

    retries: int

    def wait(self, tried: int, asked: float | None = None) -> float:
        """Seconds to wait after *tried* tries, where a server may have asked for more."""
        grown = min(FIRST_WAIT * 2.0 ** min(tried - 1, 20), LONGEST_WAIT / 2)
        return min(max(grown * random.uniform(0.75, 1.25), asked or 0.0), LONGEST_WAIT)
