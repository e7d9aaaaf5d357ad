"""Pieces of speaking HTTP with registries: bounded bodies, refusals in words, waits between tries."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import attrs
import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

LARGEST_REFUSAL = 64 * 2**10
TEMPORARY = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
"""Statuses after which trying again may help."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most, whatever a server asks for."""


class TooLong(Exception):
    """A body is longer than what it may be."""


async def read_bounded(response: httpx2.Response, limit: int) -> bytes:
    """The body as it came, and the connection given back.

    Raises:
        TooLong: It has more than *limit* bytes.
    """
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise TooLong
    finally:
        await response.aclose()
    return bytes(body)


class BoundedStream(httpx2.AsyncByteStream):
    """The beginning of a body that is read by somebody who would read all of it."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        inner: AsyncIterable[bytes] = self._inner
        async for chunk in inner:
            left -= len(chunk)
            yield chunk
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._inner.aclose()


async def refusal(response: httpx2.Response) -> str:
    """Why a server refused, in its own words as far as it has any; the body is read."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
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
    first_wait: float = 0.5

    def wait(self, tried: int, asked: float | None = None) -> float:
        """Seconds to wait after *tried* tries, where a server may have asked for more."""
        grown = min(self.first_wait * 2.0 ** min(tried - 1, 20), LONGEST_WAIT / 2)
        return min(max(grown * random.uniform(0.75, 1.25), asked or 0.0), LONGEST_WAIT)
