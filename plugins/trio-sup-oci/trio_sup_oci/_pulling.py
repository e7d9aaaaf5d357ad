"""From a reference to the files of its image: resolve, prove, download, unpack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2

from ._authorization import Authorization
from ._http import Tries
from ._reference import Reference, parse_reference
from ._registry import Repository

if TYPE_CHECKING:
    from ._source import Registries


@asynccontextmanager
async def opened(source: Registries, reference: Reference, what: str) -> AsyncIterator[Repository]:
    """The repository of *reference*, for the length of the block."""
    async with httpx2.AsyncClient(timeout=source.stall_timeout) as client:
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


async def digest_now(source: Registries, uri: str) -> str:
    """What *uri* means now."""
    async with opened(source, parse_reference(uri), uri) as repository:
        return await repository.digest()
