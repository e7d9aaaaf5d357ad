"""The sources that this plugin offers: their options, and what they promise."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from trio_sup import InvalidValue
from trio_sup.strategies import Fetch, Fetched, complaints_name_fields, seconds_above_zero

from . import _options as options
from ._platform import Platform, host_platform, to_platform
from ._reference import parse_reference


async def _load(module: str) -> None:
    """Import *module* beside the event loop: an HTTP client and cryptography take a third of a second."""
    await trio.to_thread.run_sync(importlib.import_module, f"{__package__}.{module}")


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Registries:
    """Fetches images from OCI registries: ``oci://quay.io/org/repository:tag``.

    Args:
        parallel: Layers that are downloaded at the same time.
        retries: How often a request is made again that failed for a reason that may pass.
        stall_timeout: Seconds without a byte after which a download counts as broken off.
        insecure_registries: Registries, as references name them, that may be talked to without encryption. This
            machine itself always may.
        platform: For which images are chosen, such as ``"linux/arm64"``; by default that of this machine.

    Raises:
        InvalidValue: An option makes no sense; the message names it.
    """

    parallel: int = attrs.field(default=4, converter=options.to_parallel)
    retries: int = attrs.field(default=5, converter=options.to_retries)
    stall_timeout: float = attrs.field(default=60.0, converter=seconds_above_zero)
    insecure_registries: tuple[str, ...] = attrs.field(default=(), converter=options.to_registries)
    platform: Platform = attrs.field(factory=host_platform, converter=to_platform)
    # What was learned about registries, by host: kept from fetch to fetch.
    _known: dict[tuple[str, str], Any] = attrs.field(init=False, factory=dict, repr=False, eq=False)
    _schemes: dict[str, str] = attrs.field(init=False, factory=dict, repr=False, eq=False)

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """What proves an image: a signature if the gallery asks for one, else a digest in the address or the gallery.

        Raises:
            InvalidValue: *uri* is no reference.
        """
        reference = parse_reference(uri)
        if verification:
            return _signature(verification)
        if reference.digest:
            return f"the digest in its address, {reference.digest}"
        return f"the digest that the gallery gives, sha256:{sha256}" if sha256 else None

    async def digest(self, uri: str) -> str | None:
        """What *uri* means now: the digest of a manifest, or of a list of them.

        Raises:
            InvalidValue: *uri* is no reference.
            DownloadFailed: The registry cannot be asked, or does not have it.
        """
        reference = parse_reference(uri)
        if reference.digest:
            return reference.digest
        await _load("_pulling")
        from ._pulling import digest_now

        return await digest_now(self, uri)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Resolve, prove, download all layers, and only then unpack them, one over the other.

        Raises:
            InvalidValue: The address is no reference.
            NotProven: It is not signed as the gallery says.
            UnusableImage: It is no image for this machine.
            DownloadFailed, DigestMismatch, UnsafeArchive, ArchiveTooLarge, OSError: As every source.

        Cancellation: ends soon; what was downloaded stays in `scratch`.
        """
        await _load("_pulling")
        from ._pulling import pull

        return await pull(self, fetch)


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class ImageFiles:
    """Fetches images from files: ``ocifile:///path/to/image.tar``, from `docker save` or an OCI layout.

    Args:
        platform: For which images are chosen; by default that of this machine.

    Raises:
        InvalidValue: An option makes no sense; the message names it.
    """

    platform: Platform = attrs.field(factory=host_platform, converter=to_platform)

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """What proves a file: its digest, or that of the image in it. Signatures of files cannot be verified."""
        from ._file_address import parse_address

        address = parse_address(uri)
        if verification:
            return None
        if sha256:
            return f"the digest that the gallery gives, sha256:{sha256}"
        return f"the digest in its address, {address.digest}" if address.digest else None

    async def digest(self, uri: str) -> str | None:
        """The digest of the image in the file now: of its manifest or list; of `docker save`, its image ID.

        Raises:
            InvalidValue: *uri* is no absolute path.
            DownloadFailed: The file cannot be read.
            UnusableImage: There is no image in it.
        """
        await _load("_unboxing")
        from ._unboxing import digest_now

        return await digest_now(self, uri)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Verify the file and all layers in it, and only then unpack them, one over the other.

        Raises:
            InvalidValue: The address is no absolute path.
            NotProven: The gallery asks for a signature.
            UnusableImage: There is no image for this machine in it.
            DownloadFailed: The file cannot be read.
            DigestMismatch, UnsafeArchive, ArchiveTooLarge, OSError: As every source.

        Cancellation: ends soon.
        """
        await _load("_unboxing")
        from ._unboxing import unbox

        return await unbox(self, fetch)


def _signature(verification: Mapping[str, Any]) -> str | None:
    from ._policy import policy_of

    try:
        policy_of(verification)
    except InvalidValue:
        return None  # and `fetch` refuses, with the reason
    return "a signature by the key of the gallery"
