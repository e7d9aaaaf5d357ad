"""The steps of an installation, from a plan to what can be put in place."""

from __future__ import annotations

import datetime
import errno
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from .._gallery_errors import InstallFailed
from .._releases import InstallPhase, InstallProgress, Metadata, OnProgress, Release, UnpackLimits
from ..strategies import Fetched, InstallLock
from ._boxes import Box
from ._durable import sync_file_system
from ._identity import metas_of
from ._locking import installation_of, locks_held
from ._metadata_file import write_metadata
from ._obtaining import RELEASE, Obtaining, SourceOf, candidates_for
from ._planning import Plan
from ._staged import Part, Staged
from ._store import Store
from ._uris import to_record

logger = logging.getLogger("trio_sup.gallery")
SWEEP_BUDGET = 10.0
"""Seconds for removing what was replaced, at the end of an installation; the rest is for the next sweep."""


@attrs.frozen(eq=False, kw_only=True)
class Staging:
    """What all installations from one store have in common."""

    store: Store
    source_of: SourceOf
    lock: InstallLock
    require_integrity: bool
    limits: UnpackLimits
    capability: str
    now: Callable[[], float]

    @asynccontextmanager
    async def of(
        self, plan: Plan, *, anew: bool, told: OnProgress, tell_done: bool, instead_of: Metadata | None = None
    ) -> AsyncIterator[Staged]:
        """Have *plan* carried out, up to its last step, for the length of the block.

        Args:
            anew: Fetch it although it is installed.
            instead_of: See `Installer.staged_upgrade`.
            tell_done: Whether to tell when it is live.
        """
        candidates, failures = candidates_for(plan, self.source_of, require_integrity=self.require_integrity)
        inventory = self.store.inventory(self.capability)
        if anew:
            # What else stands for it is to say the same of it.
            others = (meta for meta in metas_of(inventory, plan.concrete) if meta != plan.concrete)
            plan = attrs.evolve(plan, metas=tuple(dict.fromkeys((*plan.metas, *others))))
        try:
            self.store.make_directories()
        except OSError as error:
            raise InstallFailed(plan.asked, f"{self.store.backends_dir} cannot be used: {error.strerror}") from error
        waiting = _waits_of(plan.asked, told)
        try:
            async with locks_held(self.lock, map(installation_of, plan.names), waiting=waiting):
                # Somebody else may have installed it, or deleted it, while we waited.
                inventory = self.store.inventory(self.capability)
                there = inventory.get(plan.asked)
                old = inventory.concrete(plan.concrete)
                replaced = instead_of is not None and old is not None and old.metadata != instead_of
                if there is not None and there.runnable and (replaced or not anew):
                    yield Staged(installed=there, what=plan.asked, find=lambda: there)
                    return
                box = self._make_box(plan)
                try:
                    if anew or old is None or not old.runnable:
                        obtaining = Obtaining(
                            plan=plan, store=self.store, box=box, limits=self.limits, told=told, now=self.now
                        )
                        record = _recorded(plan, await obtaining.obtain(candidates, failures))
                        parts = [self._release(plan, box, record)]
                    else:
                        record, parts = old.metadata, []  # only a meta that stands for it is missing
                    for meta in plan.metas:
                        known = inventory.metas.get(meta)
                        live = known.path if known is not None else self.store.path_of(meta)
                        name = f"meta-{len(parts)}"
                        write_metadata(box.fresh(name), _recorded_of_meta(meta, plan, record))
                        parts.append(Part(name, live))
                    await self._make_durable(plan, box)

                    def done() -> None:
                        for place in (candidate.address.uri for candidate in candidates):
                            self.store.discard_scratch(place)
                        if tell_done:
                            with suppress(Exception):  # it is installed, whoever fails to hear of it
                                told(InstallProgress(backend=plan.asked, phase=InstallPhase.DONE))

                    yield Staged(
                        replaces=old,
                        what=plan.asked,
                        names=plan.names,
                        parts=parts,
                        box=box,
                        lock=self.lock,
                        waiting=waiting,
                        find=lambda: self._find(plan),
                        done=done,
                    )
                finally:
                    box.close()
        finally:
            await self.sweep()

    def _find(self, plan: Plan) -> Release:
        inventory = self.store.inventory(self.capability)
        found = inventory.get(plan.asked) or inventory.concrete(plan.concrete)
        if found is None:
            raise InstallFailed(plan.asked, "somebody has deleted it again already")
        return found

    async def sweep(self) -> None:
        """Remove what was replaced or thrown away, within a bound, whoever is cancelled."""
        with trio.move_on_after(SWEEP_BUDGET, shield=True):
            for problem in await self.store.sweep_trash():
                logger.warning("%s", problem)

    def _make_box(self, plan: Plan) -> Box:
        try:
            return self.store.make_box(plan.concrete)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in (errno.EBADF, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS):
                why = "its file system has no locks of directories; put the releases on a local one"
            raise InstallFailed(plan.asked, f"{self.store.work_dir} cannot be used: {why}") from error

    def _release(self, plan: Plan, box: Box, record: Metadata) -> Part:
        write_metadata(box.path / RELEASE, record)
        return Part(RELEASE, self.store.path_of(plan.concrete))

    async def _make_durable(self, plan: Plan, box: Box) -> None:
        try:
            # Should the disk take long, whoever is cancelled need not wait for it.
            await trio.to_thread.run_sync(sync_file_system, box.path, abandon_on_cancel=True)
        except OSError as error:
            raise InstallFailed(plan.asked, f"it cannot be written to the disk: {error.strerror}") from error


def _recorded(plan: Plan, fetched: Fetched) -> Metadata:
    now = datetime.datetime.now(datetime.UTC)
    return attrs.evolve(
        plan.record,
        installed_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        uri=to_record(fetched.uri),
        digest=fetched.digest,
    )


def _recorded_of_meta(meta: str, plan: Plan, record: Metadata) -> Metadata:
    return Metadata(
        name=meta,
        meta_backend_for=plan.concrete,
        gallery_url=record.gallery_url,
        installed_at=record.installed_at,
        version=record.version,
    )


def _waits_of(asked: str, told: OnProgress) -> Callable[[str], None]:
    def waiting(what: str) -> None:
        # Whoever cannot be told now will not be told later either, and says so then.
        with suppress(Exception):
            told(InstallProgress(backend=asked, phase=InstallPhase.WAITING, detail=what))

    return waiting
