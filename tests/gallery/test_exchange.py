"""A release is put in place in one step, or, where the file system cannot do that, in two that a crash cannot tear."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gallery.installs import version_of, write_version
from trio_sup import InvalidValue
from trio_sup.gallery import _exchange, _swap
from trio_sup.gallery._exchange import Exchange, exchange, move
from trio_sup.gallery._swap import JOURNAL, finish_swap, swap


def unable(first: Path, second: Path) -> bool:
    """As on a file system that cannot exchange."""
    return False


WAYS = {"in one step": exchange, "in two steps": unable}


@pytest.fixture(params=WAYS)
def by(request: pytest.FixtureRequest) -> Exchange:
    way: Exchange = WAYS[request.param]
    return way


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "backends" / "box").mkdir(parents=True)
    return tmp_path / "backends" / "box"


# ---- the call


def test_two_directories_are_exchanged(tmp_path: Path) -> None:
    first, second = write_version(tmp_path / "a", "1"), write_version(tmp_path / "b", "2")
    before = first.stat().st_ino, second.stat().st_ino
    assert exchange(first, second)
    assert (second.stat().st_ino, first.stat().st_ino) == before
    assert (version_of(first), version_of(second)) == ("2", "1")


def test_kinds_do_not_matter_and_links_are_exchanged_themselves(tmp_path: Path) -> None:
    directory, file, link = tmp_path / "directory", tmp_path / "file", tmp_path / "link"
    directory.mkdir()
    file.write_text("x")
    link.symlink_to("nowhere")
    assert exchange(directory, file)
    assert exchange(file, link)
    assert (directory.read_text(), file.is_symlink(), link.is_dir()) == ("x", True, True)


def test_a_missing_one_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="missing"):
        exchange(tmp_path / "a", tmp_path / "missing")
    assert (tmp_path / "a").is_dir()


def test_moving_never_replaces(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError):
        move(tmp_path / "a", tmp_path / "b")
    move(tmp_path / "a", tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c"}


def test_without_the_call_it_says_so_and_moves_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exchange, "_renameat2", lambda: None)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        move(tmp_path / "a", tmp_path / "b")
    move(tmp_path / "a", tmp_path / "c")


def test_a_flag_that_nobody_knows_counts_as_unable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel says EINVAL to it, as a file system does to a flag that it does not have.
    monkeypatch.setattr(_exchange, "EXCHANGE", 1 << 20)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")


def test_c_libraries_that_lack_the_call_are_asked_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    call = _exchange._by_number(ctypes.CDLL(None, use_errno=True))
    assert call is not None
    monkeypatch.setattr(_exchange, "_renameat2", lambda: call)
    assert exchange(write_version(tmp_path / "a", "1"), write_version(tmp_path / "b", "2"))
    assert version_of(tmp_path / "a") == "2"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "missing")


# ---- the swap


def test_the_new_one_is_live_and_the_old_one_in_the_box(box: Path, by: Exchange) -> None:
    write_version(box / "release", "2")
    live = write_version(box.parent / "one", "1")
    swap(box, "release", live, by=by)
    assert (version_of(live), version_of(box / "release")) == ("2", "1")
    assert [path.name for path in box.iterdir()] == ["release"]


def test_where_nothing_was_nothing_is_left_in_the_box(box: Path, by: Exchange) -> None:
    write_version(box / "release", "1")
    swap(box, "release", box.parent / "one", by=by)
    assert version_of(box.parent / "one") == "1"
    assert list(box.iterdir()) == []


@pytest.mark.parametrize("there", ["file", "link", "empty directory"])
def test_whatever_is_there_is_replaced(box: Path, by: Exchange, there: str) -> None:
    live = box.parent / "one"
    match there:
        case "file":
            live.write_text("x")
        case "link":
            (box.parent / "elsewhere").mkdir()
            live.symlink_to("elsewhere")
        case _:
            live.mkdir()
    write_version(box / "release", "1")
    swap(box, "release", live, by=by)
    assert version_of(live) == "1"
    assert not live.is_symlink()


def test_a_swap_that_cannot_be_done_changes_nothing(box: Path, by: Exchange) -> None:
    live = write_version(box.parent / "one", "1")
    with pytest.raises(FileNotFoundError):
        swap(box, "missing", live, by=by)
    assert version_of(live) == "1"


def test_another_one_that_comes_or_goes_meanwhile_is_no_matter(box: Path) -> None:
    write_version(box / "release", "2")
    live = write_version(box.parent / "one", "1")

    def goes_first(first: Path, second: Path) -> bool:
        second.rename(box.parent / "gone")
        return exchange(first, second)

    swap(box, "release", live, by=goes_first)
    assert version_of(live) == "2"


# ---- a crash between the two steps


class Crash(BaseException):
    """Nothing after it is done, as after a SIGKILL."""


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop before the call of that number that changes something."""
    count = itertools.count()

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object) -> object:
            if next(count) == step:
                raise Crash
            return call(*args)

        return wrapper

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(_swap, "move", counted(move))
    monkeypatch.setattr(_swap, "_write_journal", counted(_swap._write_journal))


def test_a_crash_at_any_step_is_mended(tmp_path: Path) -> None:
    outcomes = []
    for step in range(20):
        releases = tmp_path / str(step)
        box = releases / "box"
        write_version(box / "release", "2")
        live = write_version(releases / "one", "1")
        with pytest.MonkeyPatch.context() as patch:
            crash_at(step, patch)
            try:
                swap(box, "release", live, by=unable)
            except Crash:
                finished = False
            else:
                finished = True
        said = finish_swap(box, releases)
        outcomes.append((version_of(live), said is not None))
        assert finish_swap(box, releases) is None
        assert {path.name for path in box.iterdir()} <= {"release", "replaced", f"{JOURNAL}.new"}
        if finished:
            break
    else:
        pytest.fail("it never comes to an end")
    versions = [version for version, _ in outcomes]
    assert versions == sorted(versions)  # old ones first, then new ones
    assert set(versions) == {"1", "2"}
    assert any(said for _, said in outcomes)


def test_the_second_step_that_fails_is_taken_back(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(box / "release", "2")
    live = write_version(box.parent / "one", "1")
    first = iter([OSError(5, "Input/output error")])

    def failing(source: Path, target: Path) -> None:
        if not os.path.lexists(target) and (error := next(first, None)) is not None:
            raise error
        move(source, target)

    monkeypatch.setattr(_swap, "move", failing)
    with pytest.raises(OSError, match="Input/output"):
        swap(box, "release", live, by=unable)
    assert version_of(live) == "1"
    assert [path.name for path in box.iterdir()] == ["release"]


def cut_short(box: Path, *, new: bool = True) -> None:
    """As after a crash between the two steps."""
    if new:
        write_version(box / "release", "2")
    write_version(box / "replaced", "1")
    (box / JOURNAL).write_text('{"new": "release", "live": "one"}')


def test_without_a_new_one_the_old_one_comes_back(box: Path) -> None:
    cut_short(box, new=False)
    assert "taken back" in str(finish_swap(box, box.parent))
    assert version_of(box.parent / "one") == "1"


def test_what_somebody_installed_meanwhile_stays(box: Path) -> None:
    cut_short(box)
    write_version(box.parent / "one", "3")
    assert finish_swap(box, box.parent) is None
    assert version_of(box.parent / "one") == "3"


@pytest.mark.parametrize("journal", ["", "{}", "[]", '{"new": "release", "live": "../../one"}'])
def test_a_journal_that_cannot_be_read_loses_nothing(box: Path, journal: str) -> None:
    cut_short(box)
    (box / JOURNAL).write_text(journal)
    with pytest.raises(InvalidValue, match=r"put .*replaced back"):
        finish_swap(box, box.parent)
    assert version_of(box / "replaced") == "1"
