"""Exit reports as JSON: what is written is read back, and what newer versions add is no obstacle."""

from __future__ import annotations

import json
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import Cause, ExitReport, ExitStatus, Phase, ProcessKey, Survivor
from trio_sup._report_tables import plain, report_from
from trio_sup.errors import InvalidValue

printable = st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip())
keys = st.builds(ProcessKey, printable, st.integers(min_value=0))
# Surrogates as well: a message of the system may hold bytes that are no UTF-8.
texts = st.text(st.characters(exclude_categories=()))
seconds = st.floats(allow_nan=False)
statuses = st.one_of(
    st.none(),
    st.builds(ExitStatus, code=st.integers(0, 255)),
    st.builds(ExitStatus, signal=st.integers(1, 64)),
    st.builds(ExitStatus),
)
reports = st.builds(
    ExitReport,
    key=keys,
    generation=st.integers(min_value=0),
    pid=st.integers(min_value=1),
    cause=st.sampled_from(Cause),
    phase=st.sampled_from(Phase),
    status=statuses,
    success=st.booleans(),
    ended_at=seconds,
    lived=seconds,
    stop_seconds=seconds,
    killed=st.booleans(),
    left_children=st.integers(min_value=0),
    survivors=st.lists(st.builds(Survivor, st.integers(1), texts, texts)).map(tuple),
    asked_by=st.none() | texts,
    out_of_memory=st.none() | texts,
    last_health_error=st.none() | texts,
    stderr_tail=texts,
    traceback=st.none() | texts,
)

REPORT = ExitReport(
    key=ProcessKey("a#b", 3),
    generation=7,
    pid=42,
    cause=Cause.EXITED,
    phase=Phase.READY,
    status=ExitStatus(signal=9),
    success=False,
    ended_at=1.5,
    lived=2.5,
    stop_seconds=0.25,
    survivors=(Survivor(43, "sleep 1000"),),
)


def through_json(table: Any) -> Any:
    return json.loads(json.dumps(table))


@given(reports)
def test_what_is_written_is_read_back(report: ExitReport) -> None:
    assert report_from(through_json(plain(report))) == report


def test_the_round_trip_covers_every_field() -> None:
    # So that a field which is added later is not forgotten above; none of them may be at its default.
    drawn = {"key", "generation", "pid", "cause", "phase", "status", "success", "ended_at", "lived", "stop_seconds"}
    drawn |= {"killed", "left_children", "survivors", "asked_by", "out_of_memory", "last_health_error"}
    assert drawn | {"stderr_tail", "traceback"} == {field.name for field in attrs.fields(ExitReport)}


def test_fields_that_a_newer_version_adds_are_left_out_at_every_depth() -> None:
    table = through_json(plain(REPORT))
    table["mood"] = {"is": ["unknown"]}
    table["status"]["core_dumped"] = True
    table["survivors"][0]["user"] = "nobody"
    assert report_from(table) == REPORT


@pytest.mark.parametrize("field", [field for field in attrs.fields(ExitReport) if field.default is not attrs.NOTHING])
def test_a_field_that_an_older_version_did_not_have_gets_its_default(field: attrs.Attribute[Any]) -> None:
    table = through_json(plain(REPORT))
    del table[field.name]
    changes: dict[str, Any] = {field.name: field.default}
    assert report_from(table) == attrs.evolve(REPORT, **changes)


@pytest.mark.parametrize("field", [field for field in attrs.fields(ExitReport) if field.default is attrs.NOTHING])
def test_what_every_report_has_cannot_be_left_out(field: attrs.Attribute[Any]) -> None:
    table = through_json(plain(REPORT))
    del table[field.name]
    with pytest.raises(InvalidValue, match=f"ExitReport without {field.name}"):
        report_from(table)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "no key"),
        ("key", 5),
        ("generation", "7"),
        ("generation", 7.0),
        ("generation", True),
        ("pid", None),
        ("cause", "a cause of a newer version"),
        ("cause", ["ended by itself"]),
        ("phase", None),
        ("status", "killed"),
        ("status", {"code": "0"}),
        ("success", 1),
        ("lived", "2.5"),
        ("lived", None),
        ("survivors", {}),
        ("survivors", [42]),
        ("survivors", [{"pid": 1}]),
        ("asked_by", 5),
        ("stderr_tail", None),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_and_named(field: str, value: object) -> None:
    with pytest.raises(InvalidValue, match=field if field != "survivors" else "survivors|Survivor"):
        report_from({**plain(REPORT), field: value})


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_is_no_table_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue, match="expected an exit report"):
        report_from(value)


def test_whole_numbers_will_do_for_seconds() -> None:
    assert report_from({**plain(REPORT), "lived": 2}).lived == 2.0


def test_what_is_not_finite_is_read_back_too() -> None:
    assert report_from(through_json(plain(attrs.evolve(REPORT, lived=math.inf)))).lived == math.inf
