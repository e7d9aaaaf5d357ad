"""From a reference to the files of its image: resolve, prove, download, unpack."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import httpx2
import trio

from trio_sup import ArchiveTooLarge, DigestMismatch, DownloadFailed, InvalidValue, NotProven
from trio_sup.gallery import download, http_client
from trio_sup.strategies import Fetch, Fetched, InstallPhase

from ._authorization import Authorization
from ._choosing import Chosen, choose_image
from ._documents import Descriptor
from ._flattening import flatten, most_packed_bytes
from ._hashing import digest_of_file
from ._http import Tries
from ._layers import download_layers
from ._policy import Policy, PublicKey, load_key, policy_of
from ._reference import Reference, parse_reference
from ._registry import Repository
from ._signature import verify_signature

if TYPE_CHECKING:
    from ._source import Registries

CONNECT_TIMEOUT = 30.0
_OURS = re.compile(r"([0-9a-f]{64})(?:\..*)?")


async def digest_now(source: Registries, uri: str) -> str:
    """What *uri* means now."""
    async with _opened(source, parse_reference(uri), uri) as repository:
        return await repository.digest()


async def pull(source: Registries, fetch: Fetch) -> Fetched:
    """Do what *fetch* asks for."""
    reference = parse_reference(fetch.uri)
    trusted = _trusted(fetch)
    fetch.report(InstallPhase.RESOLVING, 0, None)
    async with _opened(source, reference, fetch.uri) as repository:
        # From here on everything is asked for by digest: a tag that is moved meanwhile changes nothing.
        top = await repository.manifest(reference.target)
        chosen = await choose_image(top, repository.read, source.platform, fetch.uri)
        _check_digest(fetch, chosen)
        if trusted is not None:
            fetch.report(InstallPhase.VERIFYING, 0, None)
            policy, key = trusted
            await verify_signature(
                repository,
                (chosen.top, chosen.digest),
                key=key,
                repositories={reference.name, *policy.repositories},
                what=fetch.uri,
            )
        layers = chosen.manifest.layers
        total = _total(fetch, layers)
        _forget_others(fetch.scratch, {layer.hex for layer in layers})
        paths = await download_layers(
            layers,
            fetch.scratch,
            functools.partial(_download, source, repository, fetch.uri),
            parallel=source.parallel,
            report=lambda done, total: fetch.report(InstallPhase.DOWNLOADING, done, total),
        )
    await flatten(fetch, [functools.partial(_open, path) for path in paths], total)
    return Fetched(uri=fetch.uri, digest=chosen.top)


@asynccontextmanager
async def _opened(source: Registries, reference: Reference, what: str) -> AsyncIterator[Repository]:
    timeout = httpx2.Timeout(source.stall_timeout, connect=min(source.stall_timeout, CONNECT_TIMEOUT), pool=None)
    try:
        # In a thread: certificates take long to load.
        client = await trio.to_thread.run_sync(functools.partial(http_client, timeout=timeout))
    except (OSError, ValueError, ImportError) as error:  # bad certificates; a proxy that cannot be used
        raise DownloadFailed(what, f"there can be no HTTP client: {error}", temporary=False) from error
    async with client:
        tries = Tries(retries=source.retries)
        authorization = Authorization(
            reference,
            client=client,
            known=source._known,
            insecure=source.insecure_registries,
            tries=tries,
            what=what,
        )
        yield Repository(
            reference,
            client=client,
            authorization=authorization,
            schemes=source._schemes,
            insecure=source.insecure_registries,
            tries=tries,
            what=what,
        )


def _trusted(fetch: Fetch) -> tuple[Policy, PublicKey] | None:
    """How the image must be signed; None if the gallery does not say that it is."""
    if not fetch.verification:
        return None
    try:
        policy = policy_of(fetch.verification)
        return policy, load_key(policy)
    except InvalidValue as error:
        raise NotProven(fetch.uri, f"what the gallery says about its signatures cannot be used: {error}") from error


def _check_digest(fetch: Fetch, chosen: Chosen) -> None:
    """What the gallery gives may be the digest of the list, or of the manifest for this platform."""
    if fetch.sha256 is not None and f"sha256:{fetch.sha256}" not in (chosen.top, chosen.digest):
        raise DigestMismatch(
            fetch.uri, "the gallery means another", expected=f"sha256:{fetch.sha256}", found=chosen.top
        )


def _total(fetch: Fetch, layers: Collection[Descriptor]) -> int:
    total = sum(layer.size for layer in layers)
    if total > most_packed_bytes(fetch.limits):
        raise ArchiveTooLarge(
            fetch.uri, f"its layers have {total} bytes, and may unpack to {fetch.limits.max_bytes} (max_bytes)"
        )
    return total


def _forget_others(scratch: Path, wanted: Collection[str]) -> None:
    """Remove layers of an image that the tag meant earlier."""
    for path in scratch.iterdir():
        match = _OURS.fullmatch(path.name)
        if match is not None and match[1] not in wanted:
            path.unlink()


async def _download(
    source: Registries,
    repository: Repository,
    what: str,
    layer: Descriptor,
    to: Path,
    report: Callable[[int], None],
) -> None:
    """Get one layer into the file *to*, unless an earlier try has."""
    if await trio.to_thread.run_sync(_is_there, to, layer, limiter=trio.CapacityLimiter(1)):
        report(layer.size)
        return
    await download(
        repository.client,
        repository.blob_url(layer.digest),
        to,
        what=what,
        sha256=layer.hex,
        size=layer.size,
        auth=repository.authorization,
        report=lambda done, total: report(done),
        stall_timeout=source.stall_timeout,
        retries=source.retries,
        explain=repository.explain,
    )


def _is_there(path: Path, layer: Descriptor) -> bool:
    """Whether the file *path* is *layer*; in a thread of Trio's. One that is not goes away."""
    try:
        with open(path, "rb") as file:
            found = digest_of_file(file)
    except FileNotFoundError:
        return False
    if found == layer.digest:
        return True
    # The machine may have lost its power before everything was on the disk.
    path.unlink()
    return False


def _open(path: Path) -> BinaryIO:
    return open(path, "rb")
