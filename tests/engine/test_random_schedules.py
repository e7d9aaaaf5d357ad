"""Random schedules of start, stop, kill and cancel, played on the engine with fake processes."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.schedules import actions, play, times
from trio_sup import BackendSpec
from trio_sup.testing import FakeBackend

SPECS = [BackendSpec(name="store", command=[sys.executable], grace=grace) for grace in (1, 2)]

behaviours = st.builds(
    FakeBackend,
    listens_after=times,
    healthy_after=times,
    exits_after=st.sampled_from([0.0, 0.05, 3.0, 1e9, 1e9]),
    stops_after=times,
    free_takes=times,
    stderr=st.sampled_from([b"", b"Address already in use"]),
)
steps = actions(specs=len(SPECS), replicas=3, patience=[0.0, 0.5, 50.0])


@settings(max_examples=150, deadline=None)
@given(st.lists(behaviours, min_size=1, max_size=6), st.lists(steps, max_size=25))
def test_nothing_leaks_and_no_key_runs_twice(processes: list[FakeBackend], schedule: list[Any]) -> None:
    play(processes, SPECS, schedule)
