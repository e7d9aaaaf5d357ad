"""Fetching the content of an index from where its address says, within bounds."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from .._units import in_words
from .._wording import said_by
from ..errors import InvalidValue, TrioSupError
from ._addresses import beside, is_reference, path_of, shown
from ._index_cache import MOST_BYTES, Validators
from ._plain_file import read_plain_file

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 120.0
"""Seconds that one address may take in all. Source: spec 7.2."""
SILENCE = 30.0
"""Seconds that a server may take to accept a connection, and that may pass without a byte."""
REDIRECTS = 10
LONGEST_VALIDATOR = 1000


@attrs.define(slots=False, eq=False)
class NotFetched(TrioSupError):
    """What an address means could not be read."""

    why: str

    def __str__(self) -> str:
        return self.why


@attrs.frozen(kw_only=True)
class Fetched:
    """What was fetched.

    Attributes:
        content: None if it is still what the validators that were sent belong to.
        validators: What to send next time; None if the server gave none.
    """

    content: bytes | None
    validators: Validators | None = None


def http_client() -> httpx2.AsyncClient:
    """A client as it is wanted for indexes: proxies from the environment, redirects followed, patience bounded."""
    import httpx2

    return httpx2.AsyncClient(follow_redirects=True, max_redirects=REDIRECTS, timeout=SILENCE)


@attrs.frozen(kw_only=True)
class IndexFetcher:
    """Reads indexes by ``http``, ``https`` and ``file``.

    Args:
        files_below: The directory in which ``file`` addresses must lie, with links resolved; None refuses them all.
        timeout: Seconds that one address may take in all.
        most_bytes: What is larger is refused.
        client: Makes the HTTP client; called in a thread, since that takes its time.
    """

    files_below: Path | None = None
    timeout: float = TIMEOUT
    most_bytes: int = MOST_BYTES
    client: Callable[[], httpx2.AsyncClient] = http_client

    async def fetch(self, address: str, known: Validators | None = None) -> Fetched:
        """Read what *address* means; where it is a reference, the file that it names.

        Args:
            known: Sent along where they belong to what is fetched, so that it need not be sent again.

        Raises:
            NotFetched: It cannot be read, takes too long or is too large; the address is named.

        Cancellation: ends soon, and leaves nothing.
        """
        with trio.move_on_after(self.timeout) as patience:
            if not is_reference(address):
                return await self._fetch(address, known)
            named = await self._fetch(address, None)
            try:
                return await self._fetch(beside(address, named.content or b""), known)
            except InvalidValue as error:
                raise NotFetched(f"{shown(address)}: {error}") from None
        assert patience.cancelled_caught
        raise NotFetched(f"{shown(address)}: no answer within {in_words(self.timeout)}")

    async def _fetch(self, address: str, known: Validators | None) -> Fetched:
        path = path_of(address)
        try:
            if path is not None:
                return Fetched(content=await trio.to_thread.run_sync(self._read_file, path, abandon_on_cancel=True))
            return await self._fetch_http(address, known if known and known.address == address else None)
        except _Refused as error:
            raise NotFetched(f"{shown(address)}: {error}") from None

    def _read_file(self, path: Path) -> bytes:
        if self.files_below is None:
            raise _Refused("indexes are not read from files here")
        try:
            below = self.files_below.resolve(strict=True)
            real = path.resolve(strict=True)
            if not real.is_relative_to(below):
                raise _Refused(f"it is not inside {below}, from where alone indexes are read")
            return read_plain_file(real, self.most_bytes)[0]
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in its name; a circle of links
            raise _Refused(getattr(error, "strerror", None) or str(error)) from None

    async def _fetch_http(self, address: str, known: Validators | None) -> Fetched:
        try:
            # The first one of a process loads certificates and much code: a third of a second.
            client = await trio.to_thread.run_sync(self.client)
        except (OSError, ValueError, ImportError) as error:  # bad certificates; a proxy that cannot be used
            raise _Refused(str(error)) from error
        import httpx2

        headers = {"Accept-Encoding": "gzip"}
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        if known is not None and known.modified:
            headers["If-Modified-Since"] = known.modified
        try:
            async with client, client.stream("GET", address, headers=headers) as response:
                if response.status_code == HTTPStatus.NOT_MODIFIED and known is not None:
                    return Fetched(content=None, validators=known)
                if response.status_code != HTTPStatus.OK:
                    raise _Refused(f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
                return Fetched(content=await self._body(response), validators=_validators(address, response))
        except httpx2.TimeoutException:
            raise _Refused(f"no answer for {in_words(SILENCE)}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, zlib.error) as error:
            raise _Refused(said_by(error)) from error

    async def _body(self, response: httpx2.Response) -> bytes:
        """The body, decompressed here: the client would make each piece whole, however large that is."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise _Refused(f"it comes with the encoding {encoding[:80]!r}, which was not asked for")
        unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        content = bytearray()
        pieces = response.aiter_raw()
        try:
            async for piece in pieces:
                content += unzip.decompress(piece, self.most_bytes + 1) if unzip else piece
                if len(content) > self.most_bytes:
                    raise _Refused(f"it is larger than {self.most_bytes} bytes")
        except (_Refused, zlib.error):
            # The client leaves one of the iterators inside this one to the garbage collector, unless it is read to its
            # end; which comes at once when the connection is closed.
            await response.aclose()
            with suppress(Exception):
                async for _ in pieces:
                    pass
            raise
        if unzip and not unzip.eof:
            raise _Refused("what is compressed in it is incomplete")
        return bytes(content)


class _Refused(Exception):
    """Why an address cannot be read, without the address."""


def _validators(address: str, response: httpx2.Response) -> Validators | None:
    etag, modified = map(_sendable, (response.headers.get("etag"), response.headers.get("last-modified")))
    return Validators(address=address, etag=etag, modified=modified) if etag or modified else None


def _sendable(value: str | None) -> str | None:
    """Some servers send what they would not accept; then it is asked for without."""
    return value if value and value.isascii() and value.isprintable() and len(value) <= LONGEST_VALIDATOR else None
