"""The file that says which trees a supervisor has: what is read back, whatever happened to the writer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_sup.engine import _tree_ledger
from trio_sup.engine._tree_ledger import Record, Supervisor, TreeLedger, boot_id, now, records_in
from trio_sup.guard._proc import read_process

ROOT = Path(__file__).parent.parent.parent


def records(directory: Path) -> list[Record]:
    """All records; none may be wrong."""

    def wrong(path: Path, why: str) -> None:
        raise AssertionError(f"{path}: {why}")

    return list(records_in(directory, wrong))


def leaders(directory: Path) -> dict[int, int]:
    (record,) = records(directory)
    return record.leaders


def opened(directory: Path) -> TreeLedger:
    ledger = TreeLedger(lambda path, error: pytest.fail(f"{path}: {error}"))
    ledger.open(directory)
    return ledger


def test_it_says_who_the_supervisor_is(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (record,) = records(tmp_path)
    me = read_process(os.getpid())
    assert me is not None
    assert record.supervisor == Supervisor(
        ledger.supervisor_id, boot_id(), os.getpid(), me.started, os.stat("/proc/self/ns/pid").st_ino
    )
    assert record.supervisor.lives()
    assert record.locked is True
    assert record.in_use(here=True)
    assert stat.S_IMODE(record.path.stat().st_mode) == 0o600
    ledger.close()


def test_trees_come_and_go(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    before = now()
    ledger.add(101, 5001)
    ledger.add(102, 5002)
    ledger.remove(101)
    ledger.remove(999)
    (record,) = records(tmp_path)
    assert record.leaders == {102: 5002}
    assert before <= record.last_told <= now()
    ledger.add(101, 7001)  # the number is another process's by now
    assert leaders(tmp_path) == {102: 5002, 101: 7001}
    ledger.close()


def test_a_start_time_that_could_not_be_read_makes_no_entry(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.add(101, 0)
    assert leaders(tmp_path) == {}
    ledger.close()


def test_at_the_end_it_is_taken_away_unless_a_tree_is_left(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    for ledger in (one, other):
        ledger.add(101, 5001)
    one.remove(101)
    one.close()
    other.close()
    (record,) = records(tmp_path)
    assert record.supervisor.id == other.supervisor_id
    assert record.locked is False
    assert not record.in_use(here=True)
    one.add(102, 1)
    one.close()
    assert len(records(tmp_path)) == 1


def test_without_a_directory_it_has_an_id_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = TreeLedger()
    ledger.add(101, 5001)
    ledger.remove(101)
    ledger.close()
    assert len(ledger.supervisor_id) == 16
    assert os.listdir(tmp_path) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400))
def test_whatever_is_torn_off_its_end_the_rest_counts(tmp_path: Path, length: int) -> None:
    directory = tmp_path / str(length)
    directory.mkdir(exist_ok=True)
    ledger = opened(directory)
    for number in range(5):
        ledger.add(100 + number, 5000 + number)
    ledger.remove(102)
    path = directory / ledger.supervisor_id
    whole = path.read_bytes()
    ledger.close()
    path.write_bytes(whole[:length])
    left_out: list[str] = []
    found = list(records_in(directory, lambda path, why: left_out.append(why)))
    if length < whole.index(b"\n") + 1:
        assert (found, len(left_out)) == ([], 1)
    else:
        complete = whole[:length].count(b"\n") - 1
        expected = dict([(100 + number, 5000 + number) for number in range(5)][:complete])
        if complete == 6:
            del expected[102]
        assert found[0].leaders == expected
    path.unlink()


@pytest.mark.parametrize(
    "line", [b"+ 1", b"+ 1 2", b"+ one two three", b"* 1 2 3", b"+1 2 3", b"\xff\xfe\x00", b"", b"+ 1 2 3 4", b"+"]
)
def test_a_line_that_is_none_is_passed_over(tmp_path: Path, line: bytes) -> None:
    ledger = opened(tmp_path)
    ledger.add(101, 5001)
    with (tmp_path / ledger.supervisor_id).open("ab") as file:
        file.write(line + b"\n")
    ledger.add(102, 5002)
    assert leaders(tmp_path) == {101: 5001, 102: 5002}
    ledger.close()


def test_what_is_no_record_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    foreign = {"README": b"what is this?\n", "empty": b"", "image": b"\x89PNG\n\x1a\n", "almost": b"supervisor a b c\n"}
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("README")
    ledger = opened(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    named: list[str] = []
    found = list(records_in(tmp_path, lambda path, why: named.append(path.name)))
    assert set(os.listdir("/proc/self/fd")) == before
    assert [record.supervisor.id for record in found] == [ledger.supervisor_id]
    assert sorted(named) == sorted([*foreign, "pipe", "folder", "link"])
    assert {name: (tmp_path / name).read_bytes() for name in foreign} == foreign
    ledger.close()


def test_it_is_made_small_again_and_loses_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    path = tmp_path / ledger.supervisor_id
    ledger.add(7, 5007)
    largest = 0
    for number in range(5000):
        ledger.add(1000 + number, 6000)
        ledger.remove(1000 + number)
        largest = max(largest, path.stat().st_size)
    assert leaders(tmp_path) == {7: 5007}
    assert largest < _tree_ledger._COMPACT_AT + 1000
    (record,) = records(tmp_path)
    assert record.locked is True
    assert os.listdir(tmp_path) == [ledger.supervisor_id]
    ledger.close()


def test_many_trees_do_not_make_it_be_written_anew_each_time(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    path = tmp_path / ledger.supervisor_id
    for number in range(3000):
        ledger.add(1000 + number, 6000)
    inode = path.stat().st_ino
    for number in range(100):
        ledger.remove(1000 + number)
    assert path.stat().st_ino == inode
    assert len(leaders(tmp_path)) == 2900
    ledger.close()


def test_what_a_killed_supervisor_had_begun_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef.tmp").write_bytes(b"supervisor 01")
    assert records(tmp_path) == []
    assert os.listdir(tmp_path) == []


FILLS = """
import os, resource, sys
from pathlib import Path
from trio_sup.engine._tree_ledger import TreeLedger

directory = Path(sys.argv[1])
failures = []
ledger = TreeLedger(lambda path, error: failures.append(error.strerror))
ledger.open(directory)
path = directory / ledger.supervisor_id
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, resource.RLIM_INFINITY))
ledger.add(101, 5001)
ledger.add(102, 5002)
assert set(failures) <= {"File too large", "No space left on device"} and len(failures) == 2, failures
# What is there is the old file, perhaps with a part of a line.
assert path.read_bytes()[:size].endswith(b"\\n") and len(path.read_bytes()) <= size + 5
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.remove(101)
ledger.add(103, 5003)
"""


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FILLS, str(tmp_path)], cwd=ROOT, check=True, timeout=30)
    assert leaders(tmp_path) == {102: 5002, 103: 5003}
