"""Putting a new release in the place of an old one, so that a crash leaves one of them, whole.

A *box* is a directory that holds the new one before, and the old one afterwards.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from .._releases import check_release_name
from ..errors import InvalidValue
from ._durable import sync_directory
from ._exchange import Exchange, exchange, move

JOURNAL = "swap.json"
_REPLACED = "replaced"


def swap(box: Path, new: str, live: Path, *, by: Exchange = exchange) -> None:
    """Put what is called *new* in *box* in the place of *live*, whatever is there. Blocks.

    What was at *live* lies under the name *new* in the box then. Where the file system can exchange two things,
    *live* is there at every instant; elsewhere it is missing for a moment, and a journal in the box lets
    `finish_swap` bring back order after a crash.

    Raises:
        OSError: It cannot be done; everything is as it was.
    """
    while True:
        try:
            move(box / new, live)
            break
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise
        try:
            if not by(box / new, live):
                _swap_in_two_steps(box, new, live)
            break
        except FileNotFoundError:
            # It is gone since we looked: another program works here as well. Then there is nothing to replace.
            if os.path.lexists(live) or not os.path.lexists(box / new):
                raise
    sync_directory(live.parent)
    sync_directory(box)


def _swap_in_two_steps(box: Path, new: str, live: Path) -> None:
    _write_journal(box, new, live.name)
    live.rename(box / _REPLACED)
    try:
        move(box / new, live)
    except OSError:
        move(box / _REPLACED, live)
        (box / JOURNAL).unlink()
        raise
    (box / _REPLACED).rename(box / new)
    (box / JOURNAL).unlink()


def _write_journal(box: Path, new: str, live: str) -> None:
    half = box / f"{JOURNAL}.new"
    with half.open("w", encoding="utf-8") as file:
        json.dump({"new": new, "live": live}, file)
        file.flush()
        os.fsync(file.fileno())
    half.rename(box / JOURNAL)
    sync_directory(box)


def finish_swap(box: Path, releases: Path) -> str | None:
    """Finish a swap in two steps that was cut short, or take it back. Blocks.

    Args:
        releases: The directory of all releases.

    Returns:
        What was done, in words; None if there was nothing to do.

    Raises:
        OSError: It cannot be done.
        InvalidValue: The journal cannot be read although something was already moved; nothing was changed.
    """
    journal = box / JOURNAL
    try:
        content = json.loads(journal.read_bytes())
        new, name = str(content["new"]), check_release_name(content["live"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        if os.path.lexists(box / _REPLACED):
            raise InvalidValue(
                str(journal), f"what it says cannot be read: put {box / _REPLACED} back where it belongs"
            ) from error
        journal.unlink()
        return None
    live = releases / name
    done = None
    if os.path.lexists(box / _REPLACED) and not os.path.lexists(live):
        # The new one is complete: it was written and synced before the journal was.
        forward = os.path.lexists(box / new)
        try:
            move(box / (new if forward else _REPLACED), live)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else somebody installed it meanwhile
                raise
        else:
            done = f"{name}: its replacement, which was cut short, was {'finished' if forward else 'taken back'}"
            sync_directory(releases)
    journal.unlink()
    return done
