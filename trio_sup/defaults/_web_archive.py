"""The built-in source of releases on web servers."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._gallery_errors import InstallFailed
from ..errors import InvalidValue
from ..strategies import Fetch, Fetched, InstallPhase, complaints_name_fields, seconds_above_zero

if TYPE_CHECKING:
    import httpx2

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Source: RFC 9110, section 5.6.2."""
_OWN_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "if-range", "range", "te", "transfer-encoding"}
)
"""Those that the download itself is about."""
_HOST = re.compile(r"[a-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")


def _to_retries(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidValue(value, "expected a whole number, at least 0")
    return value


def _to_headers(value: object) -> Mapping[str, Mapping[str, str]]:
    # None of these messages may show a value: it may be a secret.
    if not isinstance(value, Mapping):
        raise InvalidValue("(hidden)", 'expected a table for each host, such as {"example.com" = {Authorization = …}}')
    found: dict[str, Mapping[str, str]] = {}
    for host, headers in value.items():
        if not isinstance(host, str) or not _HOST.fullmatch(host.lower()):
            raise InvalidValue("(hidden)", "expected the name of a host, or host:port, before each table of headers")
        if not isinstance(headers, Mapping):
            raise InvalidValue("(hidden)", f"expected a table of headers for {host}")
        for name, text in headers.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise InvalidValue("(hidden)", f"a header for {host} has a name that none can have")
            if name.lower() in _OWN_HEADERS:
                raise InvalidValue("(hidden)", f"{name} is not to be set; the download has its own")
            if not isinstance(text, str) or not text.isascii() or not text.isprintable() or text != text.strip():
                raise InvalidValue("(hidden)", f"{name} for {host} must be printable ASCII text, without blanks around")
        found[host.lower()] = dict(headers)
    return found


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class WebArchive:
    """A tar archive of a web server.

    Args:
        stall_timeout: Seconds without a byte after which a try counts as broken off, or text such as ``"30s"``.
        retries: How many tries in a row may fail without getting further, after the first one.
        headers: For each host (``"example.com"``, ``"example.com:8443"``) what is sent to it and to nobody else, for
            example an ``Authorization``; never shown.

    Raises:
        InvalidValue: An option makes no sense.

    Source: 60 s is the LocalAI downloader's (spec 7.8).
    """

    stall_timeout: float = attrs.field(default=60.0, converter=seconds_above_zero)
    retries: int = attrs.field(default=5, converter=_to_retries)
    headers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, converter=_to_headers, repr=False, hash=False)

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """Its digest, if somebody gave one."""
        return f"its digest, sha256:{sha256}" if sha256 else None

    async def digest(self, uri: str) -> str | None:
        """A web server does not tell."""
        await trio.lowlevel.checkpoint()
        return None

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Download the archive, going on from what an earlier try has left, and unpack it if it is what was meant.

        Raises:
            DownloadFailed, DigestMismatch: It cannot be had, or is another one.
            UnsafeArchive, ArchiveTooLarge, InstallFailed: It must not, or cannot, be unpacked.
            OSError: The disk is full, and the like.

        Cancellation: ends soon; what was downloaded is kept.
        """
        from ..gallery import download, http_client, shown, unpack

        what = shown(fetch.uri)
        if fetch.verification and not fetch.sha256:
            raise InstallFailed(what, "its gallery wants signatures, and an archive has none")
        add_headers = functools.partial(self._add_headers, fetch.uri.partition(":")[0].lower())
        # In a thread: it loads the client, and the certificates of the system.
        make_client = functools.partial(http_client, event_hooks={"request": [add_headers]})
        async with await trio.to_thread.run_sync(make_client, limiter=trio.CapacityLimiter(1)) as client:
            downloaded = await download(
                client,
                fetch.uri,
                fetch.scratch / "archive",
                sha256=fetch.sha256,
                # What is compressed is hardly larger than what it unpacks to; what claims to be only fills the disk.
                most=2 * fetch.limits.max_bytes + 2**20,
                again=True,
                stall_timeout=self.stall_timeout,
                retries=self.retries,
                report=lambda done, total: fetch.report(InstallPhase.DOWNLOADING, done, total),
            )
        try:
            await unpack(
                fetch.into,
                downloaded.path,
                what,
                fetch.limits,
                report=lambda done: fetch.report(InstallPhase.UNPACKING, done, downloaded.size),
            )
        except InstallFailed:
            downloaded.path.unlink(missing_ok=True)  # no later try makes a better archive of it
            raise
        return Fetched(uri=fetch.uri, digest=f"sha256:{downloaded.sha256}")

    async def _add_headers(self, scheme: str, request: httpx2.Request) -> None:
        """Called for each request, redirected ones included: what is for one host must not go to another."""
        await trio.lowlevel.checkpoint()
        for name in {name for headers in self.headers.values() for name in headers}:
            if name in request.headers:
                del request.headers[name]
        url = request.url
        if url.scheme != "https" and scheme == "https":
            return  # nor in the clear, if that was not asked for
        host = f"[{url.host}]" if ":" in url.host else url.host
        port = url.port or (443 if url.scheme == "https" else 80)
        for key in (host, f"{host}:{port}"):
            request.headers.update(self.headers.get(key, {}))
