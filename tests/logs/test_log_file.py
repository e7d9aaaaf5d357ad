"""The log file of one key: lines, stamps, rotation, and what is counted when the disk takes no more."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import LogSettings, ProcessKey
from trio_sup._backlog import Lost
from trio_sup._line_splitter import MAX_LINE_BYTES
from trio_sup.engine._log_file import STAMP_BYTES, LogFile, Written, file_name

KEY = ProcessKey("chat")
SETTINGS = LogSettings()
NOON = 1_767_355_200.0  # 2026-01-02T12:00:00Z
STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (stdout|stderr|trio-sup) ")


def written(
    data: bytes,
    *,
    stream: Literal["stdout", "stderr"] = "stdout",
    time: float = NOON,
    generation: int = 1,
    settings: LogSettings = SETTINGS,
) -> Written:
    return Written(KEY, generation, stream, time, data, settings)


def contents(path: Path) -> list[str]:
    """The lines of a file without their stamps; every one must have one."""
    *lines, rest = path.read_bytes().split(b"\n")
    assert rest == b""
    assert all(STAMP.match(line) for line in lines)
    return [STAMP.sub(b"", line, count=1).decode() for line in lines]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, only that it can be set up anywhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- names


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("base.en", "base.en#0.log"),
        ("a/../b", "a%2F..%2Fb#0.log"),
        ("..", "%2E.#0.log"),
        ("100%", "100%25#0.log"),
        ("two words~", "two%20words%7E#0.log"),
        ("modèle", "modèle#0.log"),
        ("🙂", "%F0%9F%99%82#0.log"),
    ],
)
def test_the_name_of_the_file_is_that_of_the_key_with_unsafe_characters_escaped(model: str, name: str) -> None:
    assert file_name(ProcessKey(model)) == name


def test_long_names_are_cut_and_still_differ() -> None:
    names = {file_name(ProcessKey("é" * 300 + end)) for end in ("a", "b")}
    assert len(names) == 2
    assert all(len(name.encode()) < 210 for name in names)


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable() and text.strip()), unique=True))
def test_different_keys_have_different_files_in_that_very_directory(models: list[str]) -> None:
    names = [file_name(ProcessKey(model)) for model in models]
    assert len(set(names)) == len(names)
    assert not any("/" in name or name.startswith(".") for name in names)


# ---- lines


def test_lines_are_stamped_with_utc_time_and_stream(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"hello\n"), written(b"oops\n", stream="stderr", time=NOON + 0.25)])
    assert (tmp_path / "chat#0.log").read_text() == (
        "2026-01-02T12:00:00.000000Z stdout hello\n2026-01-02T12:00:00.250000Z stderr oops\n"
    )


def test_lines_of_both_streams_are_put_together_from_their_pieces(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"o"), written(b"er", stream="stderr")])
    file.write([written(b"ut\n"), written(b"ror\n", stream="stderr")])
    assert contents(file.path) == ["out", "error"]


def test_a_line_is_finished_by_the_end_of_its_attempt(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"half"), written(b"")])
    assert file.is_idle()
    file.write([written(b"half again", generation=2), written(b"new\n", generation=3)])
    assert contents(file.path) == ["half", "half again", "new"]


def test_long_lines_and_invalid_utf_8_stay_readable(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"x" * 100_000), written(b"\n\xff\xc3\xa9\n")])
    assert contents(file.path) == ["x" * MAX_LINE_BYTES, "x" * (100_000 - MAX_LINE_BYTES), "\\xffé"]


def test_files_and_directory_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = LogFile(tmp_path / "some" / "logs", KEY)
        file.write([written(b"secret\n")])
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_there_already_is_kept_and_an_unfinished_line_of_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "chat#0.log"
    path.write_text("2026-01-01T00:00:00.000000Z stdout interrup")
    LogFile(tmp_path, KEY).write([written(b"hello\n")])
    assert contents(path) == ["interrup", "hello"]


def test_a_file_that_is_taken_away_is_made_anew(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "logs", KEY)
    file.write([written(b"one\n")])
    file.path.unlink()
    file.path.parent.rmdir()
    file.write([written(b"two\n")])
    assert contents(file.path) == ["two"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    LogFile(tmp_path, KEY).write([written(b"one\n")])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_file_of_ours_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "chat#0.log"
    if kind == "link":
        path.symlink_to(tmp_path / "precious")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"."):
        LogFile(tmp_path, KEY).write([written(b"hello\n")])
    assert not (tmp_path / "precious").exists()


# ---- rotation


def test_a_file_that_is_large_is_put_aside_and_only_so_many_are_kept(tmp_path: Path) -> None:
    settings = LogSettings(max_bytes=10 * (STAMP_BYTES + 100), files=3)
    file = LogFile(tmp_path, KEY)
    lines = [f"{number:099}" for number in range(45)]
    file.write([written("".join(f"{line}\n" for line in lines).encode(), settings=settings)])
    assert sorted(os.listdir(tmp_path)) == ["chat#0.log", "chat#0.log.1", "chat#0.log.2"]
    assert contents(tmp_path / "chat#0.log") == lines[40:]
    assert contents(tmp_path / "chat#0.log.1") == lines[30:40]
    assert contents(tmp_path / "chat#0.log.2") == lines[20:30]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) == settings.max_bytes


def test_a_single_file_is_begun_anew_when_it_is_full(tmp_path: Path) -> None:
    settings = LogSettings(max_bytes=1024, files=1)
    file = LogFile(tmp_path, KEY)
    for number in range(100):
        file.write([written(b"line %d\n" % number, settings=settings)])
    assert os.listdir(tmp_path) == ["chat#0.log"]
    assert contents(file.path)[-1] == "line 99"
    assert file.path.stat().st_size <= 1024


def test_a_line_that_is_longer_than_a_file_may_be_has_one_of_its_own(tmp_path: Path) -> None:
    settings = LogSettings(max_bytes=1024, files=9)
    LogFile(tmp_path, KEY).write([written(b"short\n" + b"x" * 2000 + b"\nshort\n", settings=settings)])
    kept = [contents(tmp_path / name) for name in ("chat#0.log.2", "chat#0.log.1", "chat#0.log")]
    assert kept == [["short"], ["x" * 2000], ["short"]]


def test_files_from_a_time_when_more_were_kept_go_with_the_next_rotation(tmp_path: Path) -> None:
    for number in range(1, 8):
        (tmp_path / f"chat#0.log.{number}").write_text("old\n")
    settings = LogSettings(max_bytes=1024, files=2)
    LogFile(tmp_path, KEY).write([written(b"x" * 900 + b"\n" + b"y" * 900 + b"\n", settings=settings)])
    assert sorted(os.listdir(tmp_path)) == ["chat#0.log", "chat#0.log.1"]


# ---- what is missing


def test_what_was_lost_before_is_told_where_it_would_have_been(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"half"), Lost(KEY, 700), written(b"rest\n")])
    file.write([Lost(KEY, 11), Lost(KEY, 12)])
    file.write_notice()
    assert contents(file.path) == ["half", "700 bytes are missing here", "rest", "23 bytes are missing here"]
    assert b"Z trio-sup 700 bytes" in file.path.read_bytes()


def test_a_full_disk_loses_whole_lines_and_how_much_is_told_when_there_is_room_again(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    file.write([written(b"before\n")])
    size = file.path.stat().st_size
    with no_file_larger_than(size + 50):
        for _ in range(3):
            with pytest.raises(OSError, match="large"):
                file.write([written(b"x" * 999 + b"\n"), written(b"unfinished")])
        assert file.path.stat().st_size == size
    file.write([written(b"!\n")])
    # Each time the unfinished line went on, and only what had ended was to be written.
    assert contents(file.path) == ["before", f"{3 * 1000 + 2 * 10} bytes are missing here", "unfinished!"]


def test_what_was_written_before_the_disk_was_full_does_not_count_as_missing(tmp_path: Path) -> None:
    file = LogFile(tmp_path, KEY)
    settings = LogSettings(max_bytes=2000, files=9)
    (tmp_path / "chat#0.log").write_text("x" * 1149 + "\n")
    line = b"y" * 99 + b"\n"
    with no_file_larger_than(1880), pytest.raises(OSError, match="large"):
        # Six lines fit into the file that is there, fourteen into the next one, which must not be that large.
        file.write([written(line * 5 + b"and", settings=settings), written(b" so on\n" + line * 20, settings=settings)])
    file.write([written(b"after\n")])
    kept = [line for name in ("chat#0.log.1", "chat#0.log") for line in contents_without_x(tmp_path / name)]
    (notice,) = [line for line in kept if "missing" in line]
    shown = sum(len(line) + 1 for line in kept if "missing" not in line and line != "after")
    assert shown > 0
    assert shown + int(notice.split()[0]) == 25 * 100 + len("and so on\n")


def contents_without_x(path: Path) -> list[str]:
    *lines, rest = path.read_bytes().split(b"\n")
    assert rest == b""
    return [STAMP.sub(b"", line, count=1).decode() for line in lines if not line.startswith(b"x")]


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from([b"x" * 30, b"line\n", b"two\nlines\n", b"", b"z" * 300 + b"\n"]))
        | st.integers(1, 9),
        max_size=30,
    ),
    st.sampled_from([1024, 10**6]),
)
def test_every_byte_is_in_the_file_or_counted(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[int, bytes] | int], max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    file = LogFile(folder, KEY)
    settings = LogSettings(max_bytes=max_bytes, files=900)
    total = 0
    for action in actions:
        if isinstance(action, int):
            total += action
            file.write([Lost(KEY, action)])
            continue
        room, data = action
        total += len(data)
        item = written(data, settings=settings)
        try:
            with no_file_larger_than(700 * room):
                file.write([item])
        except OSError:
            continue
    file.write([written(b"")])
    file.write_notice()
    assert file.is_idle()
    told = 0
    for path in folder.iterdir():
        for line in contents(path):
            counted = re.fullmatch(r"(\d+) bytes are missing here", line)
            told += int(counted[1]) if counted else len(line) + 1
    # A line that ended with its attempt has no line end of its own.
    assert 0 <= told - total <= len(actions) + 1
