"""Bringing order to what earlier processes left half done among the releases."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from ..errors import TrioSupError
from ._boxes import adopt_box
from ._durable import sync_directory
from ._exchange import Exchange, move
from ._flocks import open_directory, try_flock
from ._listing import is_runnable
from ._trash import Trash

logger = logging.getLogger("trio_sup.gallery")

BETWEEN_RENAMES = 0.2
"""Seconds that another program may take from moving a release away to moving its successor in."""
DAY = 86400.0
OLD_DOWNLOAD = 7 * DAY
"""Seconds after which a download that was broken off is given up."""
OLD_LEFTOVER = DAY
"""Seconds after which what LocalAI left beside a release is not used by it any more. An installation over a slow line
takes hours, and does not touch the directory while it downloads."""
_BACKUP, _STAGING = ".install-backup", ".install-tmp"


@attrs.frozen(eq=False, kw_only=True)
class Repair:
    """One repair of the releases in *backends_dir*; see `Store.repair`.

    Args:
        now: A clock, in seconds since the epoch.
    """

    backends_dir: Path
    work: Path
    downloads: Path
    trash: Trash
    exchange: Exchange
    now: Callable[[], float] = time.time

    async def run(self) -> Sequence[str]:
        done = await trio.to_thread.run_sync(self._finish_boxes)
        done += await self._restore_backups()
        done += await trio.to_thread.run_sync(self._throw_old_away)
        for problem in await self.trash.sweep():
            logger.warning("%s", problem)
        return tuple(done)

    # ---- our own

    def _finish_boxes(self) -> list[str]:
        done: list[str] = []
        found = _entries(self.work)
        if found:
            self.trash.directory.mkdir(mode=0o700, exist_ok=True)
        for path in found:
            trio.from_thread.check_cancelled()
            try:
                done += self._finish_box(path)
            except (OSError, TrioSupError) as error:
                done.append(f"{path} could not be brought to order: {error}")
        return done

    def _finish_box(self, path: Path) -> Sequence[str]:
        box = adopt_box(path, self.trash, self.exchange)
        if box is None:
            return ()  # somebody is at work there
        try:
            finished = box.finish(self.backends_dir)
        except BaseException:
            box.let_go()
            raise
        box.close()
        name = path.name.rpartition("-")[0] or path.name
        return [finished or f"{name}: what was left of an installation that was cut short was thrown away"]

    # ---- LocalAI's: it moves a release away, its successor in, and then removes the old one

    async def _restore_backups(self) -> list[str]:
        lost = [path for path in _entries(self.backends_dir) if self._is_lost(path)]
        if not lost:
            return []
        # It may be at work at this very moment.
        await trio.sleep(BETWEEN_RENAMES)
        done = []
        for path in lost:
            live = _without_suffix(path, _BACKUP)
            if not self._is_lost(path):
                continue
            try:
                move(path, live)
                sync_directory(self.backends_dir)
            except FileExistsError:
                continue
            except OSError as error:
                done.append(f"{path} could not be renamed back to {live.name}: {error.strerror}")
            else:
                done.append(f"{live.name}: a replacement by another program, which was cut short, was taken back")
        return done

    def _is_lost(self, path: Path) -> bool:
        return (
            path.name.endswith(_BACKUP)
            and len(path.name) > len(_BACKUP)
            and not path.is_symlink()
            and is_runnable(path)
            and not os.path.lexists(_without_suffix(path, _BACKUP))
        )

    # ---- what nobody wants any more

    def _throw_old_away(self) -> list[str]:
        done: list[str] = []
        for path in _entries(self.downloads):
            trio.from_thread.check_cancelled()
            if self._is_older(path, OLD_DOWNLOAD) and self._throw_away_unless_locked(path):
                done.append("a download that was broken off long ago was thrown away")
        for path in _entries(self.backends_dir):
            trio.from_thread.check_cancelled()
            if (
                path.name.endswith((_BACKUP, _STAGING))
                and not self._is_lost(path)
                and self._is_older(path, OLD_LEFTOVER)
                and self._throw_away_unless_locked(path)
            ):
                done.append(f"{path.name}, which another program left behind long ago, was thrown away")
        return done

    def _is_older(self, path: Path, age: float) -> bool:
        try:
            newest = max(_last_change(each) for each in (path, *_entries(path)))
        except OSError:
            return False
        return self.now() - newest > age

    def _throw_away_unless_locked(self, path: Path) -> bool:
        try:
            opened = open_directory(path)
        except OSError:
            return False
        try:
            if not try_flock(opened, fcntl.LOCK_EX):
                return False
            if not self.trash.directory.is_dir():  # nothing was ever installed by us
                self.trash.directory.mkdir(mode=0o700, parents=True)
            self.trash.take(path)
            return True
        except OSError as error:
            logger.warning("%s cannot be thrown away: %s", path, error.strerror)
            return False
        finally:
            os.close(opened)


def _without_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(suffix))


def _last_change(path: Path) -> float:
    status = path.lstat()
    return max(status.st_mtime, status.st_ctime)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
