"""Taking a release away, by whichever of its names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from .._gallery_errors import ReleaseInUse, UnknownRelease
from .._releases import Release
from ..errors import InvalidValue
from ..strategies import InstallLock
from ._durable import sync_directory
from ._identity import meant_by, metas_of
from ._listing import Inventory
from ._locking import locks_held
from ._staged import Before, why_unmovable
from ._store import Store


@attrs.frozen(kw_only=True)
class _Deletion:
    """What goes: the directories of metas first, so that at no instant one of them stands for what is gone."""

    release: Release
    names: frozenset[str]
    metas: Sequence[Path]
    releases: Sequence[Path]


def _deletion_of(name: str, inventory: Inventory, store: Store) -> _Deletion:
    release = inventory.get(name)
    if release is None:
        raise UnknownRelease(name, [each.name for each in inventory.releases])
    if release.system:
        raise InvalidValue(name, "it came with the machine, and is not to be deleted")
    meant = meant_by(inventory, name)
    metas = {meta for concrete in meant for meta in metas_of(inventory, concrete)}
    if name in inventory.metas:
        metas.add(name)
    found = [each for concrete in meant if (each := inventory.concrete(concrete)) is not None]
    return _Deletion(
        release=release,
        names=frozenset((name, *meant, *metas)),
        metas=[inventory.metas[meta].path for meta in sorted(metas)],
        releases=[store.path_of(each.name) for each in found],
    )


async def delete(
    name: str,
    store: Store,
    *,
    lock: InstallLock,
    capability: str,
    before: Before | None,
    waiting: Callable[[str], None],
) -> Release:
    """See `Installer.delete`."""
    await trio.lowlevel.checkpoint()
    deletion = _deletion_of(name, store.inventory(capability), store)
    store.make_directories()
    while True:
        with trio.CancelScope() as finishing:
            async with locks_held(lock, deletion.names, waiting=waiting):
                now = _deletion_of(name, store.inventory(capability), store)
                if now.names <= deletion.names:
                    _refuse_if_held(now, store, only_others=True)
                    finishing.shield = True
                    if before is not None:
                        await before()
                    _refuse_if_held(now, store, only_others=False)
                    await trio.to_thread.run_sync(_remove, now, store)
                    return now.release
        deletion = now  # it means more by now than what was locked


def _refuse_if_held(deletion: _Deletion, store: Store, *, only_others: bool) -> None:
    for path in deletion.releases:
        if path.is_symlink() or not path.is_dir():
            continue
        holders = store.holders(path)
        if only_others:
            holders = [holder for holder in holders if holder.pid != os.getpid()]
            held = bool(holders)
        else:
            held = store.is_held(path)
        if held:
            raise ReleaseInUse(
                deletion.release.name, list(map(str, holders)) or ["a process that cannot be seen from here"]
            )


def _remove(deletion: _Deletion, store: Store) -> None:
    taken: list[tuple[Path, Path]] = []
    try:
        for path in (*deletion.metas, *deletion.releases):
            taken.append((store.trash.take(path), path))
    except OSError as error:
        for place, away in reversed(taken):
            with suppress(OSError):
                place.rename(away)
        raise OSError(error.errno, why_unmovable(error, path)) from error
    finally:
        sync_directory(store.backends_dir)
