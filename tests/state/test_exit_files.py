"""Exit reports on disk: what is there is whole, and what is wrong hides nothing else."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given

from tests.state.test_report_tables import REPORT, keys
from trio_sup import ExitReport, ProcessKey
from trio_sup._exit_files import exits_in, name_of, read_all, remove_unfinished, write
from trio_sup._report_tables import plain

KEY = REPORT.key
OTHER = ProcessKey("other", 0)


def reports(count: int, key: ProcessKey = KEY) -> tuple[ExitReport, ...]:
    return tuple(attrs.evolve(REPORT, key=key, generation=number) for number in range(count))


@given(keys)
def test_any_key_makes_a_name_that_the_file_system_takes(key: ProcessKey) -> None:
    name = name_of(key)
    assert len(os.fsencode(name + ".tmp")) <= 255
    assert not set(name) & {"/", "\0"}
    assert name not in (".", "..")


@given(keys, keys)
def test_no_two_keys_share_a_name(one: ProcessKey, other: ProcessKey) -> None:
    assert (name_of(one) == name_of(other)) == (one == other)


@pytest.mark.parametrize("model", ["../../etc/passwd", "ü" * 300, "a" * 200, ".", "..", "%2F", "a%-b", "x.json", "a b"])
def test_what_is_written_is_found_again(tmp_path: Path, model: str) -> None:
    key = ProcessKey(model, 1)
    write(tmp_path, key, reports(3, key))
    write(tmp_path, OTHER, reports(1, OTHER))
    found = read_all(tmp_path)
    assert found.problems == []
    assert found.reports == {key: reports(3, key), OTHER: reports(1, OTHER)}
    assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}


def test_two_long_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, other = ProcessKey("m" * 300 + "1", 0), ProcessKey("m" * 300 + "2", 0)
    assert name_of(one) != name_of(other)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path, KEY, reports(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name_of(KEY)).stat().st_mode) == 0o600


def test_the_newest_twenty_are_read(tmp_path: Path) -> None:
    write(tmp_path, KEY, reports(30))
    assert read_all(tmp_path).reports[KEY] == reports(30)[-20:]


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    found = read_all(exits_in(tmp_path))
    assert (found.reports, found.problems) == ({}, [])


def document(**changes: Any) -> bytes:
    return json.dumps({"format": 1, "key": str(KEY), "reports": [plain(REPORT)], **changes}).encode()


WRONG = {
    "empty": b"",
    "cut short": document()[:-20],
    "no JSON": b"\x7fELF\x00\xff\xfe",
    "too deep": b"[" * 100_000,
    "no table": b"[]",
    "null": b"null",
    "no key": b'{"reports": []}',
    "a key that is none": document(key="a"),
    "a key of another type": document(key=["a#0"]),
    "no list": document(reports={"0": plain(REPORT)}),
    "the reports of another key": document(key="another#0"),
    "a number of ten thousand digits": b'{"key": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_named_and_hides_no_other(tmp_path: Path, text: bytes) -> None:
    (tmp_path / name_of(KEY)).write_bytes(text)
    write(tmp_path, OTHER, reports(1, OTHER))
    found = read_all(tmp_path)
    assert found.reports == {OTHER: reports(1, OTHER)}
    (problem,) = found.problems
    assert str(problem).startswith(f"{tmp_path / name_of(KEY)} is left out: ")


def test_what_is_no_file_is_named_and_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe#0.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 40)
    write(tmp_path, OTHER, reports(1, OTHER))
    before = set(os.listdir("/proc/self/fd"))
    found = read_all(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before
    assert found.reports == {OTHER: reports(1, OTHER)}
    assert [problem.path.name for problem in found.problems] == ["folder", "huge", "loop", "pipe#0.json", "zero"]


def test_a_report_that_is_wrong_hides_no_other_in_its_file(tmp_path: Path) -> None:
    tables = [plain(report) for report in reports(3)]
    tables[1]["cause"] = "one of a newer version"
    (tmp_path / name_of(KEY)).write_bytes(document(reports=[*tables, plain(reports(1, OTHER)[0])]))
    found = read_all(tmp_path)
    assert found.reports == {KEY: (reports(3)[0], reports(3)[2])}
    assert ["report 2 of 4" in str(problem) for problem in found.problems] == [True, False]
    assert "report 4 of 4 cannot be read: it is about other#0" in str(found.problems[1])


def test_what_a_killed_writer_had_not_finished_is_passed_over_and_cleared_away(tmp_path: Path) -> None:
    write(tmp_path, KEY, reports(2))
    (tmp_path / f"{name_of(KEY)}.tmp").write_bytes(document()[:50])
    found = read_all(tmp_path)
    assert (found.reports, found.problems) == ({KEY: reports(2)}, [])
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [name_of(KEY)]


def test_a_link_that_waits_for_a_writer_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / f"{name_of(KEY)}.tmp").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path, KEY, reports(1))
    assert target.read_text() == "precious"
    write(tmp_path, KEY, reports(1))


WRITES_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tests.state.test_exit_files import KEY, reports
from trio_sup._exit_files import write
print("begins", flush=True)
for number in itertools.count(1):
    write(Path(sys.argv[1]), KEY, reports(20)[: number % 20 + 1])
"""


@pytest.mark.parametrize("moment", range(5))
def test_whatever_the_instant_of_a_sigkill_what_is_there_is_whole(tmp_path: Path, moment: int) -> None:
    command = [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path)]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begins\n"
        read = 0
        while read < 20 * moment + 1:
            # While it writes, too.
            found = read_all(tmp_path)
            assert found.problems == []
            read += len(found.reports)
        writer.send_signal(signal.SIGKILL)
    found = read_all(tmp_path)
    assert found.problems == []
    assert found.reports[KEY] == reports(20)[: len(found.reports[KEY])]
