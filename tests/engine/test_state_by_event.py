"""Every phase against every event: one test for each cell of the table, and the table against the engine's own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.engine.state_cast import KEY, WINDOW
from tests.engine.state_events import ACTS
from tests.engine.state_reasons import CLAIMS, FACTS, Happened
from tests.engine.state_scenes import WAYS, Scene, scene_of
from tests.engine.state_table import BARE, ELSEWHERE, TABLE, Cell, Ignored, Impossible, Move
from trio_sup import Phase, events
from trio_sup._phases import MOVES
from trio_sup.engine._ending import KILL_TIMEOUT

REQUIRED = """
start, same spec · start, other spec · stop · stop with force · ready · deadline · progress · warm-up failed · exit 0 ·
exit 1 · exit by a signal · leader gone but tree alive · EADDRINUSE · readiness lost · readiness back · liveness lost ·
backoff due · healthy stretch over · needed backend lost · needed backend back · sibling failed · evicted · idle ·
lease taken · lease ended · configuration changed · configuration removed · files swapped · tree gone ·
survivors proven · last survivor ended · cancel of one waiter · cancel of the last waiter · cancel of a stop ·
shutdown · second signal · guard lost
"""


def situation_of(event: str, phase: Phase, cell: Cell) -> str:
    """Where a cell of the big table is tried."""
    if isinstance(cell, Ignored) and cell.scene is not None:
        return cell.scene
    # There must be a lease to end.
    leased = f"{phase.value}, leased"
    return leased if event == "lease ended" and leased in WAYS else phase.value


CELLS = [
    (event, phase, situation_of(event, phase, cell), cell)
    for event, row in TABLE.items()
    for phase, cell in row.items()
]
CELLS += [(event, phase, situation, cell) for (event, situation), (phase, cell) in ELSEWHERE.items()]


@pytest.mark.parametrize(
    ("event", "phase", "situation", "cell"), CELLS, ids=[f"{situation}-{event}" for event, _, situation, _ in CELLS]
)
async def test_cell(
    event: str, phase: Phase, situation: str, cell: Cell, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene_of(situation, tmp_path / "release") as scene:
        await wait_all_tasks_blocked()
        assert scene.phase() is phase
        if isinstance(cell, Impossible):
            await FACTS[cell.why](scene)
            return
        before, launched, since, began = scene.backend(), len(scene.children()), len(scene.seen), trio.current_time()
        caller = await ACTS[event](scene)
        await trio.sleep(WINDOW)
        moves = scene.moves(since)
        path = cell.path if isinstance(cell, Move) else ()
        assert [move.phase for move in moves] == list(path)
        assert [move.previous for move in moves] == [phase, *path][: len(path)]
        assert (None if caller is None else caller.told) == cell.told
        check_what_is_left(scene, [phase, *path][-1])
        if isinstance(cell, Ignored):
            await CLAIMS[cell.why](Happened(scene, event, before, scene.backend(), launched, caller, since))
        elif event in AFTER:
            AFTER[event](scene, launched, began)


def check_what_is_left(scene: Scene, phase: Phase) -> None:
    """What is so whatever has happened, once the slot has come to rest in *phase*."""
    if not scene.closed.is_set():
        assert scene.phase() is phase
    living = [child for child in scene.children() if not child.closed]
    if phase in BARE or scene.closed.is_set():
        assert living == []
    else:
        assert living == [scene.child()]
    for caller in scene.callers:
        if caller.told == "still waits":
            assert phase not in (Phase.READY, Phase.STOP_FAILED, Phase.GIVEN_UP, Phase.GONE)


def its_children_were_counted(scene: Scene, launched: int, began: float) -> None:
    child = scene.children()[launched - 1]
    (report,) = [report for report in scene.sup.exit_reports(KEY) if report.pid == child.pid]
    assert report.left_children == 2
    assert [number for _, number in child.signals][-1] is signal.SIGKILL


def those_who_waited_wait_on(scene: Scene, launched: int, began: float) -> None:
    assert scene.starter is not None
    assert scene.starter.told in ("ready", "still waits")


def the_supervisor_has_closed(scene: Scene, launched: int, began: float) -> None:
    assert scene.closed.is_set()


def it_closed_at_once(scene: Scene, launched: int, began: float) -> None:
    assert scene.closed.is_set()
    (last, _), *_ = [(at, event) for at, event in reversed(scene.seen) if isinstance(event, events.BackendMoved)]
    # Of an end that is not forced, the grace period alone takes longer; a tree that survives is watched for so long.
    assert last - began <= 1 + 2 * KILL_TIMEOUT


AFTER: Mapping[str, Callable[[Scene, int, float], None]] = {
    "leader gone but tree alive": its_children_were_counted,
    "EADDRINUSE": those_who_waited_wait_on,
    "start after files were swapped": those_who_waited_wait_on,
    "shutdown": the_supervisor_has_closed,
    "second signal": it_closed_at_once,
}
"""What else is so after a move, besides the path; called with how many processes there had been, and the instant."""


def test_the_table_has_a_cell_for_each_phase_and_each_event() -> None:
    required = {name.strip() for name in REQUIRED.replace("\n", " ").split("·")}
    assert required <= set(TABLE)
    assert all(set(row) == set(Phase) for row in TABLE.values())
    assert set(ACTS) == set(TABLE)
    assert {event for event, _ in ELSEWHERE} <= set(TABLE)
    assert {phase.value for phase in Phase} <= set(WAYS)


def test_every_way_and_every_reason_is_used() -> None:
    cells = [cell for *_, cell in CELLS]
    assert {cell.why for cell in cells if isinstance(cell, Ignored)} == set(CLAIMS)
    assert {cell.why for cell in cells if isinstance(cell, Impossible)} == set(FACTS)
    assert {situation for _, _, situation, _ in CELLS} == set(WAYS)


def test_the_table_is_the_one_that_the_engine_uses() -> None:
    shown = {
        pair
        for _, phase, _, cell in CELLS
        if isinstance(cell, Move)
        for pair in zip([phase, *cell.path], cell.path, strict=False)
    }
    assert shown == {(old, new) for old, allowed in MOVES.items() for new in allowed}
