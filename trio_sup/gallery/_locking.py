"""Having the install locks of several names, and saying who has them meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from ..strategies import InstallLock

PATIENCE = 0.1
"""Seconds of waiting for a lock that nobody needs to hear of."""
TELL_EVERY = 1.0
"""Seconds between two looks at who has it."""


def installation_of(name: str) -> str:
    """The key of the lock that is held for a whole installation of *name*; that of *name* itself is held only while
    files are exchanged. No release can be called so."""
    return f"{name}~install"


@asynccontextmanager
async def locks_held(lock: InstallLock, keys: Iterable[str], *, waiting: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the locks of all *keys*, not shared, for the length of the block; taken in one order by everybody, so that
    no two wait for each other.

    Args:
        waiting: Told in words what is waited for, and who has it, while that takes long.

    Cancellation: a wait that is cancelled leaves nothing behind.
    """
    wanted = ""
    failed: BaseException | None = None

    async def tell() -> None:
        await trio.sleep(PATIENCE)
        while True:
            waiting(waited_for(lock, wanted))
            await trio.sleep(TELL_EVERY)

    # The nursery is the outermost block, since locks of plugins may have blocks of their own that end with theirs.
    async with trio.open_nursery() as nursery:
        telling = trio.CancelScope()

        async def tell_until_held() -> None:
            with telling:
                await tell()

        nursery.start_soon(tell_until_held, name="who has the install lock")
        try:
            async with AsyncExitStack() as held:
                for wanted in sorted(set(keys)):
                    await held.enter_async_context(lock.hold(wanted, shared=False))
                telling.cancel(reason="it is held")
                try:
                    yield
                except BaseException as error:
                    failed = error  # none of the locks' business; a nursery in one of them would wrap it
        except BaseException as error:
            failed = failed or error
        telling.cancel(reason="it is over")
    if failed is not None:
        # Not in a group: whoever waits in the block raises what it raises.
        try:
            raise failed
        finally:
            failed = None


def waited_for(lock: Any, key: str) -> str:
    """What is waited for when *key* is, and who has it, as far as *lock* can say that."""
    name = key.removesuffix("~install")
    what = f"another installation of {name}" if name != key else f"the install lock of {name}"
    holders: Sequence[str] = ()
    ask = getattr(lock, "holders", None)
    if ask is not None:
        try:
            holders = [str(holder) for holder in ask(key)]
        except (Exception, SystemExit):
            holders = ()  # a message is not worth failing for
    return f"{what}, held by {', '.join(holders)}" if holders else what
