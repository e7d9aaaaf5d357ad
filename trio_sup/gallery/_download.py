"""Downloading a file: resumed where it broke off, tried again, watched for stalls, and verified before it counts."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._gallery_errors import DigestMismatch, DownloadFailed

if TYPE_CHECKING:
    import httpx2

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a try counts as broken off. Source: the LocalAI downloader's (spec 7.8)."""
HEADER_TIMEOUT = 120.0
"""Seconds until the head of an answer. Source: likewise."""
CONNECT_TIMEOUT = 30.0
RETRIES = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds before another try; the wait doubles from the one to the other, and begins anew when bytes arrive."""
MOST_PATIENCE = 60.0
"""Seconds that a server may ask for with Retry-After."""
BATCH = 1024 * 1024
"""Bytes that are hashed and written at once, in a thread."""

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Report = Callable[[int, "int | None"], None]


@attrs.frozen(kw_only=True)
class Downloaded:
    """A file that was downloaded and verified.

    Attributes:
        path: Where it is.
        sha256: Its digest, in hex digits.
        size: Its bytes.
        url: Where it came from in the end, redirects followed.
    """

    path: Path
    sha256: str
    size: int
    url: str


def http_client(**options: Any) -> httpx2.AsyncClient:
    """A client for downloads: follows redirects, takes proxies from the environment, and gives up on silent servers.

    Args:
        options: Those of ``httpx2.AsyncClient``, instead of these.
    """
    import httpx2

    timeout = httpx2.Timeout(HEADER_TIMEOUT, connect=CONNECT_TIMEOUT, pool=None)
    return httpx2.AsyncClient(**{"timeout": timeout, "follow_redirects": True, **options})


class _Again(Exception):
    """The try failed; the next one may not. *wait* is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@attrs.define(eq=False)
class _Partial:
    """What has arrived so far: a file, and beside it which version of the remote one it is a part of."""

    path: Path
    hash: Any = attrs.field(factory=hashlib.sha256)
    size: int = 0
    validator: str | None = None  # empty if the address always means the same
    file: int = -1

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def open(self, check_cancelled: Callable[[], None]) -> None:
        """Find what an earlier try has left, and hash it."""
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            validator = json.loads(self._note.read_text()).get("validator")
            self.validator = validator if isinstance(validator, str) else None
        if self.validator is None:
            self.begin(None)
            return
        while data := os.read(self.file, BATCH):
            check_cancelled()
            self.hash.update(data)
            self.size += len(data)

    def begin(self, validator: str | None) -> None:
        """Start from nothing; *validator* names the version that is to come."""
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        self.hash, self.size, self.validator = hashlib.sha256(), 0, validator
        if validator is None:
            self._note.unlink(missing_ok=True)
        else:
            self._note.write_text(json.dumps({"validator": validator}))

    def add(self, data: bytes) -> None:
        self.hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.file, view) :]
        self.size += len(data)

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, to: Path) -> None:
        self.path.replace(to)
        self._note.unlink(missing_ok=True)


async def download(
    client: httpx2.AsyncClient,
    url: str,
    to: Path,
    *,
    what: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    most: int | None = None,
    immutable: bool = False,
    headers: Mapping[str, str] | None = None,
    auth: Any = None,
    report: Report = lambda done, total: None,
    stall_timeout: float = STALL_TIMEOUT,
    retries: int = RETRIES,
    explain: Callable[[int], str | None] = lambda status: None,
) -> Downloaded:
    """Download *url* into the file *to*, which is there only when all of it is, and is what it should be.

    What arrives is kept in ``<to>.partial`` until then, over failures, cancellation and the end of the program. The
    next try goes on from there, if the server has ranges and the file is still the same one there.

    Args:
        client: Sends the requests, for example `http_client`; not closed here.
        what: What it is called in messages; the address by default.
        sha256: Digest that it must have, in hex digits.
        size: Bytes that it must have.
        most: Bytes that it may have at most.
        immutable: The address always means the same bytes, so that a try may go on although the server does not say
            whether its file is still the same.
        headers: Sent along.
        auth: An ``httpx2.Auth``.
        report: Told how many bytes are there, and how many there will be (None while unknown).
        stall_timeout: Seconds without a byte after which a try counts as broken off.
        retries: How many tries in a row may fail without a byte, after the first one.
        explain: Asked what to say of a status that ends it; None for the usual words.

    Raises:
        DownloadFailed: It cannot be had; `temporary` says whether another try may help.
        DigestMismatch: It is another file; it was thrown away.
        OSError: It cannot be written; what is there is kept.

    Cancellation: ends at once, and keeps what has arrived.
    """
    limiter = trio.CapacityLimiter(1)
    partial = _Partial(to.with_name(to.name + ".partial"))
    what = what or url
    request = _Request(client, url, what, size, most, immutable, headers or {}, auth, report, stall_timeout, explain)

    def open_it() -> None:
        partial.open(trio.from_thread.check_cancelled)

    try:
        await trio.to_thread.run_sync(open_it, limiter=limiter)
        if size is not None and partial.size > size:
            partial.begin(None)
        tries = 0
        while True:
            before = partial.size
            try:
                final = await request.run(partial, limiter)
                break
            except _Again as error:
                tries = 1 if partial.size > before else tries + 1
                if tries > retries:
                    raise DownloadFailed(what, f"{error}, {tries} times in a row") from error
                pause = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT) * random.uniform(0.7, 1)
                await trio.sleep(pause if error.wait is None else min(error.wait, MOST_PATIENCE))
        found = partial.hash.hexdigest()
        if sha256 is not None and found != sha256.lower():
            partial.discard()
            raise DigestMismatch(what, "its digest is another", expected=f"sha256:{sha256}", found=f"sha256:{found}")
        partial.finish(to)
        return Downloaded(path=to, sha256=found, size=partial.size, url=final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(what, f"no space is left in {to.parent} (what has arrived is kept there)") from error
        raise
    finally:
        partial.close()


@attrs.frozen
class _Request:
    """What one try asks for; the fields are the arguments of `download`."""

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

    async def run(self, partial: _Partial, limiter: trio.CapacityLimiter) -> str:
        """Ask once, and take in what comes; returns the final address once everything is there.

        Raises:
            _Again: Something is missing, and another try may bring it.
        """
        import httpx2

        headers = {"Accept-Encoding": "identity", **self.headers}
        if partial.size and partial.validator is not None:
            if self.size is not None and partial.size == self.size:
                return self.url
            headers["Range"] = f"bytes={partial.size}-"
            if partial.validator:
                headers["If-Range"] = partial.validator
        given = {} if self.auth is None else {"auth": self.auth}
        try:
            async with self.client.stream("GET", self.url, headers=headers, **given) as response:
                return await self._take(response, partial, limiter)
        except httpx2.TimeoutException as error:
            raise _Again(f"{self._host()} did not answer in time") from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise DownloadFailed(self.what, str(error), temporary=False) from error
        except httpx2.TransportError as error:
            if _is_certificate(error):
                why = f"{self._host()} is not trusted: {error}"
                raise DownloadFailed(self.what, why, temporary=False) from error
            raise _Again(f"{self._host()}: {error or type(error).__name__}") from error

    async def _take(self, response: httpx2.Response, partial: _Partial, limiter: trio.CapacityLimiter) -> str:
        total = self._begin(response, partial)
        if total == _COMPLETE:
            return str(response.url)
        if total is not None and self.size is not None and total != self.size:
            why = f"the server has {total} bytes of it, and it should have {self.size}"
            raise DownloadFailed(self.what, why, temporary=False)
        if total is not None and self.most is not None and total > self.most:
            raise DownloadFailed(self.what, f"it has {total} bytes, and {self.most} are the most", temporary=False)
        self.report(partial.size, total)
        await self._receive(response, partial, limiter, total)
        if total is not None and partial.size < total:
            raise _Again(f"the connection ended after {partial.size} of {total} bytes")
        if self.size is not None and partial.size != self.size:
            why = f"it has {partial.size} bytes, and should have {self.size}"
            partial.begin(None)
            raise DownloadFailed(self.what, why, temporary=False)
        return str(response.url)

    def _begin(self, response: httpx2.Response, partial: _Partial) -> int | None:
        """Look at the head of an answer; tells how many bytes there will be in all, None if it does not say."""
        status = response.status_code
        validator = "" if self.immutable else _validator(response.headers)
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != partial.size:
                partial.begin(None)
                raise _Again("the server sent another range than the one asked for")
            return int(match[3]) if match[3] != "*" else int(match[2]) + 1
        if status == 200:
            partial.begin(validator)
            length = response.headers.get("content-length", "")
            return int(length) if length.isdecimal() else None
        if status == 416 and partial.size:
            # Everything is there already, if the server says so; else the file is another one now.
            same = validator in (None, partial.validator)
            if same and response.headers.get("content-range") == f"bytes */{partial.size}":
                return _COMPLETE
            partial.begin(None)
            raise _Again("the server has no such range")
        why = self.explain(status) or f"the server said {status} {response.reason_phrase}".rstrip()
        if status in _TEMPORARY:
            raise _Again(why, _retry_after(response.headers.get("retry-after")))
        raise DownloadFailed(self.what, why, temporary=False)

    async def _receive(
        self, response: httpx2.Response, partial: _Partial, limiter: trio.CapacityLimiter, total: int | None
    ) -> None:
        """Take in the body. What has arrived is written also if this is broken off."""
        pieces: list[bytes] = []
        pending = 0

        async def flush() -> None:
            nonlocal pending
            data = b"".join(pieces)
            pieces.clear()
            pending = 0
            if data:
                # In a thread: a disk that is slow to write must not hold up everything else.
                await trio.to_thread.run_sync(partial.add, data, limiter=limiter)
                self.report(partial.size, total)

        chunks = response.aiter_raw()
        try:
            while True:
                with trio.move_on_after(self.stall_timeout) as patience:
                    chunk = await anext(chunks, None)
                if patience.cancelled_caught:
                    raise _Again(f"nothing arrived for {self.stall_timeout:g} s")
                if chunk is None:
                    break
                pieces.append(chunk)
                pending += len(chunk)
                if self.most is not None and partial.size + pending > self.most:
                    raise DownloadFailed(self.what, f"it has more than {self.most} bytes", temporary=False)
                if pending >= BATCH:
                    await flush()
        finally:
            # Bounded: it is one batch at most.
            with trio.CancelScope(shield=True):
                await flush()

    def _host(self) -> str:
        import httpx2

        try:
            return httpx2.URL(self.url).host or self.url
        except httpx2.InvalidURL:
            return self.url


_COMPLETE = -1
"""In place of a total: nothing is missing."""


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
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _is_certificate(error: BaseException) -> bool:
    import ssl

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
