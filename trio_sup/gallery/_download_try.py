"""One try of a download: a request, and taking in what comes."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._gallery_errors import ArchiveTooLarge, DownloadFailed
from .._wording import said_by
from ._partial_file import PartialFile

if TYPE_CHECKING:
    import httpx2

TELL_EVERY = 0.5
"""Seconds after which a slow download is told of, although less than a batch has arrived."""
BATCH = 1024 * 1024
"""Bytes that are hashed and written at once, in a thread."""
HEADER_TIMEOUT = 120.0
"""Seconds until the head of an answer, redirects and logging in included.

Source: the LocalAI downloader's (spec 7.8).
"""
END_TIMEOUT = 1.0
"""Seconds for closing a connection whose answer is not wanted any more."""

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
# No longer ones: a number of thousands of digits is no number any more.
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")

Report = Callable[[int, "int | None"], None]


class Again(Exception):
    """The try failed; the next one may not. *wait* is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@attrs.frozen(kw_only=True)
class Try:
    """What each try asks for; the fields are the arguments of `download`."""

    client: httpx2.AsyncClient
    url: str
    what: str
    size: int | None
    most: int | None
    immutable: bool
    headers: Mapping[str, str]
    auth: Any
    report: Report
    stall_timeout: float
    explain: Callable[[int], str | None]
    limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def run(self, arrived: PartialFile) -> str:
        """Ask once, and take in what comes; returns the final address once everything is there.

        Raises:
            Again: Something is missing, and another try may bring it.
            DownloadFailed, ArchiveTooLarge: No other try will.
            OSError: It cannot be written.
        """
        import httpx2

        headers = {"Accept-Encoding": "identity", **self.headers}
        if arrived.size and arrived.validator is not None:
            if self.size is not None and arrived.size == self.size:
                return self.url
            headers["Range"] = f"bytes={arrived.size}-"
            if arrived.validator:
                headers["If-Range"] = arrived.validator
        try:
            response = await self._head(headers)
            try:
                await self._take(response, arrived, ranged="Range" in headers)
                return str(response.url)
            finally:
                with trio.move_on_after(END_TIMEOUT, shield=True):
                    await response.aclose()
        except httpx2.TimeoutException as error:
            raise Again(f"{self._host()} did not answer in time") from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise DownloadFailed(self.what, str(error), temporary=False) from error
        except httpx2.LocalProtocolError as error:
            # Its text may have what is to be sent in it, which may be a secret.
            raise DownloadFailed(self.what, "the request has a header that cannot be sent", temporary=False) from error
        except httpx2.TransportError as error:
            if _is_certificate(error):
                why = f"{self._host()} is not trusted: {error}"
                raise DownloadFailed(self.what, why, temporary=False) from error
            raise Again(f"{self._host()}: {said_by(error)}") from error

    async def restart(self, arrived: PartialFile, validator: str | None = None) -> None:
        """Start from nothing. In a thread: to let go of a large file takes its time."""
        await trio.to_thread.run_sync(arrived.begin, validator, limiter=self.limiter)

    async def _head(self, headers: Mapping[str, str]) -> httpx2.Response:
        """Ask, and wait for the head of the answer; the client itself would wait for ever if it came byte by byte."""
        request = self.client.build_request("GET", self.url, headers=headers)
        given = {} if self.auth is None else {"auth": self.auth}
        with trio.move_on_after(HEADER_TIMEOUT):
            return await self.client.send(request, stream=True, **given)
        raise Again(f"{self._host()} did not answer within {HEADER_TIMEOUT:g} s")

    async def _take(self, response: httpx2.Response, arrived: PartialFile, *, ranged: bool) -> None:
        total = await self._begin(response, arrived, ranged)
        if total is not None and self.size is not None and total != self.size:
            why = f"the server has {total} bytes of it, and it should have {self.size}"
            raise DownloadFailed(self.what, why, temporary=False)
        if total is not None and self.most is not None and total > self.most:
            raise ArchiveTooLarge(self.what, f"it has {total} bytes, and {self.most} are the most")
        self.report(arrived.size, total)
        if response.status_code != 416:
            await self._receive(response, arrived, total)
        if total is not None and arrived.size < total:
            raise Again(f"the connection ended after {arrived.size} of {total} bytes")
        if total is not None and arrived.size > total:
            await self.restart(arrived)
            raise Again(f"the server sent more than the {total} bytes that there are")
        if self.size is not None and arrived.size != self.size:
            why = f"it has {arrived.size} bytes, and should have {self.size}"
            await self.restart(arrived)
            raise DownloadFailed(self.what, why, temporary=False)

    async def _begin(self, response: httpx2.Response, arrived: PartialFile, ranged: bool) -> int | None:
        """Look at the head of an answer; tells how many bytes there will be in all, None if it does not say."""
        status = response.status_code
        validator = "" if self.immutable else _validator(response.headers)
        content_range = response.headers.get("content-range", "")
        if status == 206 and ranged:
            match = _CONTENT_RANGE.fullmatch(content_range)
            if match is None or int(match[1]) != arrived.size:
                await self.restart(arrived)
                raise Again("the server sent another range than the one asked for")
            if validator and arrived.validator and validator != arrived.validator:
                # Not every cache heeds If-Range.
                await self.restart(arrived)
                raise Again("the file on the server is another one now")
            arrived.earlier = True
            return int(match[3]) if match[3] != "*" else None
        if status == 200:
            await self.restart(arrived, validator)
            length = response.headers.get("content-length", "")
            return int(length) if _NUMBER.fullmatch(length) else None
        if status == 416 and ranged:
            # Everything is there already, if the server says so; else the file is another one now.
            same = validator in (None, arrived.validator)
            if same and content_range == f"bytes */{arrived.size}":
                return arrived.size
            await self.restart(arrived)
            raise Again("the server has no such range")
        why = self.explain(status) or f"the server said {status} {response.reason_phrase}".rstrip()
        if status in _TEMPORARY:
            raise Again(why, _retry_after(response.headers.get("retry-after")))
        raise DownloadFailed(self.what, why, temporary=False)

    async def _receive(self, response: httpx2.Response, arrived: PartialFile, total: int | None) -> None:
        """Take in the body. What has arrived is written also if this is broken off."""
        pieces: list[bytes] = []
        pending, flushed_at = 0, trio.current_time()

        async def flush() -> None:
            nonlocal pending, flushed_at
            data = b"".join(pieces)
            pieces.clear()
            pending = 0
            if data:
                # In a thread: a disk that is slow to write must not hold up everything else. Shielded, so that what
                # has arrived is kept; bounded: it is one batch at most.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(arrived.add, data, limiter=self.limiter)
                self.report(arrived.size, total)
            flushed_at = trio.current_time()

        chunks = response.aiter_raw()
        try:
            while True:
                with trio.move_on_after(self.stall_timeout) as patience:
                    chunk = await anext(chunks, None)
                if patience.cancelled_caught:
                    raise Again(f"nothing arrived for {self.stall_timeout:g} s")
                if chunk is None:
                    break
                pieces.append(chunk)
                pending += len(chunk)
                if self.most is not None and arrived.size + pending > self.most:
                    raise ArchiveTooLarge(self.what, f"it has more than {self.most} bytes")
                if pending >= BATCH or trio.current_time() - flushed_at >= TELL_EVERY:
                    await flush()
        except BaseException:
            await _break_off(response, chunks)
            raise
        finally:
            await flush()

    def _host(self) -> str:
        import httpx2

        try:
            return httpx2.URL(self.url).host or self.what
        except httpx2.InvalidURL:
            return self.what


async def _break_off(response: httpx2.Response, chunks: AsyncIterator[bytes]) -> None:
    """End a body in its middle: the client's generators end only when they read on, from a closed connection."""
    with trio.move_on_after(END_TIMEOUT, shield=True), suppress(Exception):
        await response.aclose()
        while True:
            await anext(chunks)


def _validator(headers: Mapping[str, str]) -> str | None:
    """What names this version of the file, for If-Range; a weak tag is none. Source: RFC 9110, section 13.1.5."""
    tag = headers.get("etag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("last-modified") or None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a server asks for: as a number, or as an instant. Source: RFC 9110, section 10.2.3."""
    if not value:
        return None
    if _NUMBER.fullmatch(value.strip()):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _is_certificate(error: BaseException) -> bool:
    import ssl

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
