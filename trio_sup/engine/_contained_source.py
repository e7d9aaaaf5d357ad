"""Gallery sources of plugins run beside the engine: one that hangs or shields keeps nobody but its own installation."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import attrs

from ..strategies import Fetch, Fetched, GallerySource
from ._plugin_calls import PluginCalls
from ._side_tasks import SideTasks

T = TypeVar("T")


@attrs.frozen
class ContainedSource:
    """*source*, called *name* in messages; its methods raise what it raises, and heed cancellation in any case."""

    source: GallerySource
    name: str
    side: SideTasks
    calls: PluginCalls

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        return self.calls.call(self.name, "proof()", self.source.proof, uri, sha256=sha256, verification=verification)

    async def digest(self, uri: str) -> str | None:
        return await self._run("digest", lambda: self.source.digest(uri))

    async def fetch(self, fetch: Fetch) -> Fetched:
        return await self._run("fetch", lambda: self.source.fetch(fetch))

    async def _run(self, what: str, fn: Callable[[], Awaitable[T]]) -> T:
        # No budget: an installation takes as long as it takes; a source notices by itself that nothing arrives.
        result = await self.side.run(f"{what} of {self.name}", fn, budget=math.inf)
        if result.error is not None:
            raise result.error
        return result.value  # type: ignore[return-value]  # it has finished, so there is one
