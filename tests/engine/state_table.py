"""What each event means for a slot in each phase: the whole table, as data.

A cell says that the slot moves, along exactly this path, until nothing happens any more; or that the event is ignored,
because …; or that it is impossible, because …. `state_scenes` says how each phase is reached, `state_events` what each
event does, and `state_reasons` how each reason is proven; `test_state_by_event` makes a test of each cell, and compares
the table with the one that the engine uses.

The slot has what slots can have: a backend that it needs and is bound to, a sibling in a group that is restarted as a
whole, a restart policy that tries again and gives up at last, liveness checks, an idle time; and the supervisor a
bound of how many may run. Backoffs, grace periods and the readiness deadline are long beside what is waited for after
an event, so that each path ends where nothing but the next event leads on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from trio_sup import Phase

WAITING, STARTING, READY, UNREADY = Phase.WAITING, Phase.STARTING, Phase.READY, Phase.UNREADY
STOPPING, STOP_FAILED, BACKOFF = Phase.STOPPING, Phase.STOP_FAILED, Phase.BACKOFF
GIVEN_UP, GONE = Phase.GIVEN_UP, Phase.GONE

LIVE = (STARTING, READY, UNREADY)
ONCE_READY = (READY, UNREADY)
ENDING = (STOPPING, STOP_FAILED)
BARE = (WAITING, BACKOFF, GIVEN_UP, GONE)
"""Phases without a process."""


@attrs.frozen
class Move:
    """The slot moves along *path*.

    Attributes:
        told: What the caller is told whose call the event is: ``"ready"``, ``"leased"``, ``"gone"``,
            ``"nothing there"``, ``"still waits"`` or the name of an error; None if the event is no call.
    """

    path: Sequence[Phase]
    told: str | None = None


@attrs.frozen
class Ignored:
    """The slot does not move; the reason is one of `state_reasons.CLAIMS`, which prove what it says.

    Attributes:
        told: As in `Move`.
        scene: The situation that it is tried in; by default the plainest one of that phase.
    """

    why: str
    told: str | None = None
    scene: str | None = None


@attrs.frozen
class Impossible:
    """It cannot happen there; the reason is one of `state_reasons.FACTS`, which prove it."""

    why: str


Cell = Move | Ignored | Impossible
Row = tuple[Phase | Sequence[Phase], Cell]


def move(*path: Phase, told: str | None = None) -> Move:
    return Move(path, told)


def each(*rows: Row) -> Mapping[Phase, Cell]:
    """One cell for each phase: all of them, and none twice."""
    cells: dict[Phase, Cell] = {}
    for phases, cell in rows:
        for phase in [phases] if isinstance(phases, Phase) else phases:
            assert phase not in cells, phase
            cells[phase] = cell
    assert set(cells) == set(Phase), set(Phase) - set(cells)
    return cells


ALL = tuple(Phase)
NO_PROCESS = Impossible("there is no process")
NO_START = Impossible("no start is under way")
NOT_YET_READY = Impossible("it has not been ready yet")
NOT_ENDING = Impossible("its end has not begun")
UNCHECKED = Impossible("its readiness is not checked")
LIVENESS_UNCHECKED = Impossible("its liveness is not checked")
NOBODY_WAITS = Impossible("nobody waits for it")
SIBLING_GONE = Impossible("its sibling has no process")
AT_ONCE = Impossible("a stop is over at once")

JOINS = Ignored("it joins the start that is under way", told="still waits")
QUEUED = Ignored("it waits until the end that has begun is over, and is started then", told="still waits")
ROTATION = Ignored("it waits until it is back in rotation", told="still waits")
REFUSED = Ignored("it is refused", told="SpecConflict")
ENDS_ANYWAY = Ignored("its end goes on as it would have")
BUSY = Ignored("what starts, or is to start again, is not ended to make room", told="NoRoom")
RESTS = Ignored("it rests, and looks at the others when it is started next")
NOT_THERE = Ignored("there is no slot")

STARTS = (WAITING, STARTING, READY)
ONE_MORE_TRY = (STOPPING, STOP_FAILED)

STOPS = each(
    ([WAITING, BACKOFF, GIVEN_UP], move(GONE, told="gone")),
    (LIVE, move(STOPPING, GONE, told="gone")),
    (STOPPING, Ignored("it joins the end that has begun", told="still waits")),
    (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
    (GONE, Ignored("there is no slot", told="nothing there")),
)

TABLE: Mapping[str, Mapping[Phase, Cell]] = {
    "start, same spec": each(
        ([WAITING, STARTING], JOINS),
        (READY, Ignored("it is so already", told="ready")),
        (UNREADY, ROTATION),
        (STOPPING, QUEUED),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        ([BACKOFF, GIVEN_UP, GONE], move(*STARTS, told="ready")),
    ),
    "start, other spec": each(
        ([WAITING, *LIVE, BACKOFF], REFUSED),
        (STOPPING, QUEUED),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        ([GIVEN_UP, GONE], move(*STARTS, told="ready")),
    ),
    "start, other spec, replacing": each(
        (WAITING, move(WAITING, told="still waits")),
        (STARTING, move(STOPPING, WAITING, STARTING, told="still waits")),
        (READY, move(STOPPING, *STARTS, told="ready")),
        (UNREADY, move(STOPPING, WAITING, STARTING, told="still waits")),
        (STOPPING, QUEUED),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        ([BACKOFF, GIVEN_UP, GONE], move(*STARTS, told="ready")),
    ),
    "stop": STOPS,
    "stop with force": each(
        ([WAITING, BACKOFF, GIVEN_UP], move(GONE, told="gone")),
        (LIVE, move(STOPPING, GONE, told="gone")),
        (STOPPING, move(GONE, told="gone")),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        (GONE, Ignored("there is no slot", told="nothing there")),
    ),
    "ready": each(
        (STARTING, move(READY)),
        ([READY, UNREADY, *ENDING], NO_START),
        (BARE, NO_PROCESS),
    ),
    "deadline": each(
        (WAITING, Ignored("the deadline does not run while it waits")),
        (STARTING, move(STOPPING, BACKOFF)),
        ([READY, UNREADY, *ENDING], NO_START),
        ([BACKOFF, GIVEN_UP, GONE], NO_PROCESS),
    ),
    "progress": each(
        (STARTING, Ignored("the deadline moves")),
        ([READY, UNREADY, *ENDING], NO_START),
        (BARE, NO_PROCESS),
    ),
    "warm-up failed": each(
        (STARTING, move(STOPPING, BACKOFF)),
        ([READY, UNREADY, *ENDING], NO_START),
        (BARE, NO_PROCESS),
    ),
    "exit 0": each(
        (LIVE, move(STOPPING, GONE)),
        (ENDING, move(GONE)),
        (BARE, NO_PROCESS),
    ),
    "exit 1": each(
        (LIVE, move(STOPPING, BACKOFF)),
        (ENDING, move(GONE)),
        (BARE, NO_PROCESS),
    ),
    "exit by a signal": each(
        (LIVE, move(STOPPING, BACKOFF)),
        (ENDING, move(GONE)),
        (BARE, NO_PROCESS),
    ),
    "leader gone but tree alive": each(
        (LIVE, move(STOPPING, BACKOFF)),
        (STOPPING, move(GONE)),
        (STOP_FAILED, Ignored("others of its tree are still there")),
        (BARE, NO_PROCESS),
    ),
    "EADDRINUSE": each(
        (STARTING, move(STOPPING, WAITING, STARTING)),
        (ONCE_READY, move(STOPPING, BACKOFF)),  # whatever it says: it had its port
        (ENDING, move(GONE)),
        (BARE, NO_PROCESS),
    ),
    "readiness lost": each(
        (STARTING, NOT_YET_READY),
        (READY, move(UNREADY)),
        (UNREADY, Ignored("it is so already")),
        ([*ENDING, *BARE], UNCHECKED),
    ),
    "readiness back": each(
        (STARTING, NOT_YET_READY),
        (READY, Ignored("it is so already")),
        (UNREADY, move(READY)),
        ([*ENDING, *BARE], UNCHECKED),
    ),
    "liveness lost": each(
        (ONCE_READY, move(STOPPING, BACKOFF)),
        ([STARTING, *ENDING, *BARE], LIVENESS_UNCHECKED),
    ),
    "backoff due": each(
        (BACKOFF, move(*STARTS)),
        ([WAITING, *LIVE, *ENDING, GIVEN_UP, GONE], Impossible("no backoff runs")),
    ),
    "healthy stretch over": each(
        (READY, Ignored("the next backoff is short again", scene="ready, after a failure")),
        (UNREADY, Ignored("only a stretch in rotation counts", scene="unready, after a failure")),
        (STARTING, NOT_YET_READY),
        (ENDING, ENDS_ANYWAY),
        (BARE, NO_PROCESS),
    ),
    "needed backend lost": each(
        (WAITING, Ignored("it waits until its need is met")),
        (LIVE, move(STOPPING, WAITING)),
        (ENDING, ENDS_ANYWAY),
        ([BACKOFF, GIVEN_UP], RESTS),
        (GONE, NOT_THERE),
    ),
    "needed backend back": each(
        (WAITING, move(*STARTS)),
        ([*LIVE, *ENDING, BACKOFF, GIVEN_UP, GONE], Impossible("what it needs is ready")),
    ),
    "needed backend given up": each(
        (WAITING, move(GONE)),
        (STARTING, move(STOPPING, WAITING, GONE)),
        (ONCE_READY, move(STOPPING, WAITING, GIVEN_UP)),
        (ENDING, ENDS_ANYWAY),
        ([BACKOFF, GIVEN_UP], RESTS),
        (GONE, NOT_THERE),
    ),
    "sibling failed": each(
        (WAITING, Ignored("it waits until its need is met")),
        (LIVE, move(STOPPING, WAITING)),
        (ENDING, ENDS_ANYWAY),
        (BACKOFF, RESTS),
        (GIVEN_UP, SIBLING_GONE),
        (GONE, NOT_THERE),
    ),
    "sibling given up": each(
        (WAITING, move(GIVEN_UP)),
        (LIVE, move(STOPPING, GIVEN_UP)),
        (ENDING, ENDS_ANYWAY),
        (BACKOFF, move(GIVEN_UP)),
        (GIVEN_UP, SIBLING_GONE),
        (GONE, NOT_THERE),
    ),
    "evicted": each(
        (WAITING, Ignored("it takes up no room", told="ready")),
        (STARTING, BUSY),
        (ONCE_READY, move(STOPPING, GONE, told="ready")),
        (STOPPING, Ignored("its room is free once its end is over", told="still waits")),
        (STOP_FAILED, Ignored("it is refused", told="NoRoom")),
        (BACKOFF, BUSY),
        ([GIVEN_UP, GONE], Ignored("it takes up no room", told="ready")),
    ),
    "idle": each(
        ([WAITING, STARTING, BACKOFF], Ignored("idle is only what has become ready")),
        (ONCE_READY, move(STOPPING, GONE)),
        (ENDING, ENDS_ANYWAY),
        ([GIVEN_UP, GONE], NO_PROCESS),
    ),
    "lease taken": each(
        ([WAITING, STARTING], JOINS),
        (READY, Ignored("it is counted", told="leased")),
        (UNREADY, ROTATION),
        (STOPPING, QUEUED),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        (BACKOFF, Ignored("it waits until the backoff is due", told="still waits")),
        (GIVEN_UP, Ignored("it is refused", told="GivenUp")),
        (GONE, move(*STARTS, told="leased")),
    ),
    "lease ended": each(
        ([WAITING, STARTING], Impossible("nobody has had a lease on it")),
        (ONCE_READY, Ignored("its idle time begins")),
        (ENDING, ENDS_ANYWAY),
        ([BACKOFF, GIVEN_UP], Ignored("nothing of it is used any more")),
        (GONE, NOT_THERE),
    ),
    "configuration changed": each(
        (ALL, Ignored("it counts from the next start")),
    ),
    "configuration removed": STOPS,
    "files swapped": each(
        (ALL, Ignored("it counts from the next start")),
    ),
    "start after files were swapped": each(
        (WAITING, JOINS),  # it is not launched yet
        (STARTING, move(STOPPING, WAITING, STARTING, told="still waits")),
        (READY, move(STOPPING, *STARTS, told="ready")),
        (UNREADY, move(STOPPING, WAITING, STARTING, told="still waits")),
        (STOPPING, QUEUED),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        ([BACKOFF, GIVEN_UP, GONE], move(*STARTS, told="ready")),
    ),
    "launch refused": each(
        ([WAITING, BACKOFF], move(WAITING, BACKOFF)),
        ([GIVEN_UP, GONE], move(WAITING, BACKOFF, told="still waits")),
        ([*LIVE, *ENDING], Impossible("it has its process")),
    ),
    "tree gone": each(
        (STOPPING, move(GONE)),
        (STOP_FAILED, Impossible("something has survived")),
        (LIVE, NOT_ENDING),
        (BARE, NO_PROCESS),
    ),
    "survivors proven": each(
        (STOPPING, move(STOP_FAILED)),
        (STOP_FAILED, Impossible("something has survived")),
        (LIVE, NOT_ENDING),
        (BARE, NO_PROCESS),
    ),
    "last survivor ended": each(
        (STOP_FAILED, move(GONE)),
        ([*LIVE, STOPPING, *BARE], Impossible("nothing has survived")),
    ),
    "cancel of one waiter": each(
        ([WAITING, STARTING, UNREADY, STOPPING, BACKOFF], Ignored("another one still waits for it")),
        ([READY, STOP_FAILED, GIVEN_UP, GONE], NOBODY_WAITS),
    ),
    "cancel of the last waiter": each(
        (WAITING, move(GONE)),
        (STARTING, move(STOPPING, GONE)),
        ([UNREADY, BACKOFF], Ignored("it was ready once, and is wanted without any waiter")),
        (STOPPING, ENDS_ANYWAY),
        ([READY, STOP_FAILED, GIVEN_UP, GONE], NOBODY_WAITS),
    ),
    "cancel of a stop": each(
        (LIVE, move(STOPPING, GONE)),
        (STOPPING, ENDS_ANYWAY),
        (STOP_FAILED, move(*ONE_MORE_TRY)),
        (BARE, AT_ONCE),
    ),
    "shutdown": each(
        ([WAITING, BACKOFF, GIVEN_UP], move(GONE)),
        (LIVE, move(STOPPING, GONE)),
        (STOPPING, move(GONE)),
        (STOP_FAILED, move(*ONE_MORE_TRY)),  # the survivors are reported, and not waited for
        (GONE, NOT_THERE),
    ),
    "second signal": each(
        (LIVE, move(STOPPING, GONE, told="gone")),
        (STOPPING, move(GONE, told="gone")),
        (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
        (BARE, AT_ONCE),
    ),
    "guard lost": each(
        (ALL, Ignored("the processes are not touched")),
    ),
}  # fmt: skip
"""For each event and each phase, what it means for a slot that came there in the plainest way."""

ELSEWHERE: Mapping[tuple[str, str], tuple[Phase, Cell]] = {
    ("start, same spec", "stopping, not ready before"): (STOPPING, QUEUED),
    ("ready", "stopping, not ready before"): (STOPPING, ENDS_ANYWAY),
    ("deadline", "stopping, not ready before"): (STOPPING, ENDS_ANYWAY),
    ("liveness lost", "ready, at work"): (READY, Ignored("what is at work is alive")),
    ("exit 1", "starting, for the last time"): (STARTING, move(STOPPING, GIVEN_UP)),
    ("needed backend lost", "ready, not bound"): (READY, Ignored("it is not bound to what it needs")),
    ("needed backend given up", "waiting, restarted"): (WAITING, move(GIVEN_UP)),
    ("idle", "ready, leased"): (READY, Ignored("it is in use")),
    ("evicted", "ready, leased"): (READY, Ignored("it is refused", told="NoRoom")),
    ("lease ended", "stopping, drained"): (STOPPING, move(GONE)),
    ("tree gone", "stopping, start queued"): (STOPPING, move(*STARTS)),
    ("tree gone", "stopping, not asked"): (STOPPING, move(BACKOFF)),
    ("tree gone", "stopping, for the last time"): (STOPPING, move(GIVEN_UP)),
    ("tree gone", "stopping, with its sibling"): (STOPPING, move(WAITING)),
    ("stop", "stopping, start queued"): (STOPPING, Ignored("it joins the end that has begun", told="still waits")),
    ("stop", "stopping, not asked"): (STOPPING, Ignored("it joins the end that has begun", told="still waits")),
    ("last survivor ended", "stop-failed, not asked"): (STOP_FAILED, move(BACKOFF)),
    ("last survivor ended", "stop-failed, for the last time"): (STOP_FAILED, move(GIVEN_UP)),
    ("last survivor ended", "stop-failed, with its sibling"): (STOP_FAILED, move(WAITING)),
    ("stop", "stop-failed, not asked"): (STOP_FAILED, move(*ONE_MORE_TRY, told="StopFailed")),
    ("cancel of the last waiter", "backoff, never ready"): (BACKOFF, move(GONE)),
    ("cancel of one waiter", "backoff, never ready"): (BACKOFF, Ignored("another one still waits for it")),
    ("start, same spec", "backoff, never ready"): (BACKOFF, move(*STARTS, told="ready")),
}  # fmt: skip
"""What an event means in a slot that came to its phase in another way, where that makes a difference."""
