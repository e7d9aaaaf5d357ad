"""The life of a slot: its phases, and the one table of moves between them."""

from __future__ import annotations

import enum

from .errors import TrioSupError


class Phase(enum.Enum):
    """Where a slot stands."""

    WAITING = "waiting"
    """Wanted; no process, and no port unless it is restarted; waits for something it names."""
    STARTING = "starting"
    """Port held, process launched, not ready yet."""
    READY = "ready"
    """Answers health, identity proven, may be handed out."""
    UNREADY = "unready"
    """Alive, but failing its readiness checks: out of rotation, not restarted."""
    STOPPING = "stopping"
    """The tree is being ended and proven gone; entry and port stay reserved."""
    STOP_FAILED = "stop-failed"
    """Survivors proven, named and watched; the port stays reserved."""
    BACKOFF = "backoff"
    """The tree is gone, the port is kept, and the next attempt comes at a known instant."""
    GIVEN_UP = "given-up"
    """No process, no port; nothing happens until it is started explicitly. The last exit report is kept."""
    GONE = "gone"
    """No process, no port, no entry."""


class Cause(enum.Enum):
    """What ended an attempt."""

    ASKED = "asked to stop"
    EXITED = "ended by itself"
    DEADLINE = "readiness deadline"
    WARM_UP_FAILED = "warm-up failed"
    LIVENESS = "liveness lost"
    PORT_TAKEN = "port already in use"
    ABANDONED = "nobody waits for it any more"
    REPLACED = "replaced by another specification"
    STALE_DIRECTORY = "its directory was replaced on disk"
    NEEDED_STOPPED = "what it needs is stopped"
    NEEDED_FAILED = "what it needs has failed"
    SIBLING_FAILED = "another one of its group has failed"
    IDLE = "idle"
    EVICTED = "made room for another"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal error"

    @property
    def asked(self) -> bool:
        """Whether somebody or the supervisor itself wished it, so that no restart policy is asked what follows."""
        return self in _ASKED

    @property
    def failed_elsewhere(self) -> bool:
        """Whether it was another one that failed, so that it comes back without anybody's decision."""
        return self in (Cause.NEEDED_FAILED, Cause.SIBLING_FAILED)


_ASKED = frozenset(
    {
        Cause.ASKED,
        Cause.ABANDONED,
        Cause.REPLACED,
        Cause.STALE_DIRECTORY,
        Cause.NEEDED_STOPPED,
        Cause.NEEDED_FAILED,
        Cause.SIBLING_FAILED,
        Cause.IDLE,
        Cause.EVICTED,
        Cause.SHUTDOWN,
    }
)


class Then(enum.Enum):
    """What follows once the tree of a stopping attempt is gone."""

    GONE = "gone"
    START = "start"
    DECIDE = "as the restart policy decides"


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.WAITING, Phase.STARTING, Phase.BACKOFF, Phase.GIVEN_UP, Phase.GONE}),
    Phase.STARTING: frozenset({Phase.READY, Phase.STOPPING}),
    Phase.READY: frozenset({Phase.UNREADY, Phase.STOPPING}),
    Phase.UNREADY: frozenset({Phase.READY, Phase.STOPPING}),
    Phase.STOPPING: frozenset({Phase.WAITING, Phase.BACKOFF, Phase.GIVEN_UP, Phase.STOP_FAILED, Phase.GONE}),
    Phase.STOP_FAILED: frozenset({Phase.STOPPING, Phase.WAITING, Phase.BACKOFF, Phase.GIVEN_UP, Phase.GONE}),
    Phase.BACKOFF: frozenset({Phase.WAITING, Phase.GIVEN_UP, Phase.GONE}),
    Phase.GIVEN_UP: frozenset({Phase.WAITING, Phase.GONE}),
    Phase.GONE: frozenset({Phase.WAITING}),
}


class ForbiddenMove(TrioSupError):
    """A move that the table of phases does not have: a bug in trio-sup."""


def check_move(old: Phase, new: Phase) -> None:
    """Refuse a move that the table does not have.

    Raises:
        ForbiddenMove: It is not in the table.
    """
    if new not in MOVES[old]:
        raise ForbiddenMove(f"no move from {old.name} to {new.name}")
