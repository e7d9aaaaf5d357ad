"""A proxy in front of a registry that does harm: cuts, stalls, damages, refuses, leads elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import attrs
import httpx2
import trio
from oci_registry import Registry
from oci_server import Answer, Asked, Reset, serve

Change = Callable[[Answer], Awaitable[Answer]]
CHUNK = 8192
PASSED_ON = frozenset({"range", "if-range", "accept", "authorization"})
PASSED_BACK = frozenset(
    {"content-type", "content-length", "content-range", "docker-content-digest", "etag", "accept-ranges"}
    | {"www-authenticate", "last-modified"}
)


@attrs.define
class Fault:
    """What happens to the next *times* answers whose path has *pattern* in it.

    Attributes:
        skip: So many of them are left as they are first.
    """

    pattern: str
    change: Change
    times: int = 1
    skip: int = 0


@attrs.define
class Proxy:
    """What runs in front of a registry.

    Attributes:
        asked: What was asked of it, in order.
    """

    registry: Registry
    faults: Sequence[Fault] = ()
    port: int = 0
    asked: list[Asked] = attrs.field(factory=list)

    def reference(self, image: str) -> str:
        return f"oci://127.0.0.1:{self.port}/{image}"

    def asked_for(self, pattern: str) -> list[Asked]:
        return [asked for asked in self.asked if re.search(pattern, asked.path)]


@asynccontextmanager
async def faulty(registry: Registry, *faults: Fault) -> AsyncIterator[Proxy]:
    """A proxy with these faults, for the length of the block."""
    proxy = Proxy(registry, faults)
    async with httpx2.AsyncClient(trust_env=False) as client:

        async def answer(asked: Asked) -> Answer:
            proxy.asked.append(asked)
            fault = next(
                (each for each in proxy.faults if each.times > 0 and re.search(each.pattern, asked.path)), None
            )
            if fault is not None and fault.skip > 0:
                fault.skip -= 1
                fault = None
            passed_on = await _passed_on(client, proxy, asked)
            if fault is None:
                return passed_on
            fault.times -= 1
            return await fault.change(passed_on)

        async with serve(answer) as proxy.port:
            yield proxy


async def _passed_on(client: httpx2.AsyncClient, proxy: Proxy, asked: Asked) -> Answer:
    headers = {name: value for name, value in asked.headers.items() if name.lower() in PASSED_ON}
    url = f"http://{proxy.registry.host}{asked.target}"
    async with client.stream(asked.method, url, headers=headers) as response:
        data = b"".join([chunk async for chunk in response.aiter_raw()])
    back = [(name, value) for name, value in response.headers.items() if name.lower() in PASSED_BACK]

    async def body() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
            await trio.lowlevel.checkpoint()

    return Answer(status=response.status_code, headers=back, body=body() if "/blobs/" in asked.path else data)


# ---- what can happen


def cut(after: int) -> Change:
    """The connection ends after so many bytes of a blob."""

    async def body(whole: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        left = after
        async with aclosing(whole):
            async for chunk in whole:
                if len(chunk) > left:
                    yield chunk[:left]
                    raise Reset
                left -= len(chunk)
                yield chunk

    return _with_body(body)


def stall(after: int) -> Change:
    """Nothing more comes after so many bytes of a blob."""

    async def body(whole: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        left = after
        async with aclosing(whole):
            async for chunk in whole:
                if len(chunk) > left:
                    yield chunk[:left]
                    await trio.sleep_forever()
                left -= len(chunk)
                yield chunk

    return _with_body(body)


def damage() -> Change:
    """The last byte of a blob is another one."""

    async def body(whole: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(whole):
            kept = b""
            async for chunk in whole:
                if kept:
                    yield kept
                kept = chunk
            yield kept[:-1] + bytes([kept[-1] ^ 1])

    return _with_body(body)


def refuse(status: int, *headers: tuple[str, str]) -> Change:
    """Another answer."""

    async def change(answer: Answer) -> Answer:
        if not isinstance(answer.body, bytes):
            await answer.body.aclose()
        return Answer(status=status, headers=headers, body=b"{}")

    return change


def replace(body: bytes, *headers: tuple[str, str]) -> Change:
    """Another document."""

    async def change(answer: Answer) -> Answer:
        return Answer(headers=headers, body=body)

    return change


def _with_body(body: Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]]) -> Change:
    async def change(answer: Answer) -> Answer:
        assert not isinstance(answer.body, bytes)
        return attrs.evolve(answer, body=body(answer.body))

    return change
