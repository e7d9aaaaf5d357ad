"""Downloading a file: resumed where it broke off, tried again, watched for stalls, and verified before it counts."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._gallery_errors import DigestMismatch, DownloadFailed
from ._addresses import shown
from ._download_try import HEADER_TIMEOUT, Again, Report, Try
from ._partial_file import PartialFile

if TYPE_CHECKING:
    import httpx2

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a try counts as broken off. Source: the LocalAI downloader's (spec 7.8)."""
CONNECT_TIMEOUT = 30.0
RETRIES = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds before another try; the wait doubles from the one to the other, and begins anew when bytes arrive."""
MOST_PATIENCE = 60.0
"""Seconds that a server may ask for with Retry-After."""


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
    again: bool = False,
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
        what: What it is called in messages; the address by default, without what may be secret in it.
        sha256: Digest that it must have, in hex digits.
        size: Bytes that it must have.
        most: Bytes that it may have at most; should be about as many as it may unpack to.
        immutable: The address always means the same bytes, so that a try may go on although the server does not say
            whether its file is still the same.
        again: *to* may be there from an earlier call that said the same; it is fetched again only if the server has
            another one now. What tells that is kept beside it.
        headers: Sent along.
        auth: An ``httpx2.Auth``.
        report: Told how many bytes are there, and how many there will be (None while unknown).
        stall_timeout: Seconds without a byte after which a try counts as broken off.
        retries: How many tries in a row may fail without getting further, after the first one.
        explain: Asked what to say of a status that ends it; None for the usual words.

    Raises:
        DownloadFailed: It cannot be had; `temporary` says whether another try may help.
        DigestMismatch: It is another file; it was thrown away.
        ArchiveTooLarge: It has more than *most* bytes.
        OSError: It cannot be written; what is there is kept.

    Cancellation: ends at once, and keeps what has arrived.
    """
    arrived = PartialFile(to.with_name(to.name + ".partial"))
    what = what or shown(url)
    each = Try(
        client=client,
        url=url,
        what=what,
        size=size,
        most=most,
        immutable=immutable,
        headers=headers or {},
        auth=auth,
        report=report,
        stall_timeout=stall_timeout,
        explain=explain,
    )
    wanted = sha256.lower() if sha256 is not None else None
    in_thread = partial(trio.to_thread.run_sync, limiter=each.limiter)
    try:
        await in_thread(arrived.open, trio.from_thread.check_cancelled, to if again else None)
        if size is not None and arrived.size > size:
            await each.restart(arrived)
        if wanted is not None and arrived.hash.hexdigest() == wanted:
            final = url  # all of it is here already
        else:
            final = await _try_until_it_is_here(each, arrived, retries)
            if arrived.earlier and wanted not in (None, arrived.hash.hexdigest()):
                # It was put together from several tries, any of which may be what is wrong with it; and what was kept
                # may have been damaged here: the power may have failed before it was on the disk.
                await each.restart(arrived)
                final = await _try_until_it_is_here(each, arrived, retries)
        found = arrived.hash.hexdigest()
        if wanted not in (None, found):
            await in_thread(arrived.discard)
            raise DigestMismatch(what, "its digest is another", expected=f"sha256:{wanted}", found=f"sha256:{found}")
        await in_thread(partial(arrived.finish, to, keep_note=again))
        return Downloaded(path=to, sha256=found, size=arrived.size, url=final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(what, f"no space is left in {to.parent} (what has arrived is kept there)") from error
        raise
    finally:
        arrived.close()


async def _try_until_it_is_here(each: Try, arrived: PartialFile, retries: int) -> str:
    tries, furthest = 0, arrived.size
    while True:
        try:
            return await each.run(arrived)
        except Again as error:
            # Only what no try has reached before counts: those that begin anew each time would never end.
            tries = 1 if arrived.size > furthest else tries + 1
            furthest = max(furthest, arrived.size)
            if tries > retries:
                raise DownloadFailed(each.what, f"{error}, {tries} times in a row") from error
            pause = min(FIRST_WAIT * 2 ** min(tries - 1, 10), LONGEST_WAIT) * random.uniform(0.7, 1)
            await trio.sleep(pause if error.wait is None else min(error.wait, MOST_PATIENCE))
