"""What is kept in memory, and what a reader of it sees: every line once, or how many it missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_sup import LinesLost, LogLine, ProcessKey
from trio_sup._line_splitter import MAX_LINE_BYTES
from trio_sup.engine._log_reader import SLICE, LogReader
from trio_sup.engine._log_ring import CHUNK_COST, SMALL, TICK, LogRing

KEY = ProcessKey("chat")
Stream = Literal["stdout", "stderr"]


def ring_of(*written: bytes | tuple[Stream, bytes], limit: int = 100_000, every: float = 1.0) -> LogRing:
    """A ring into which that was written, a second between each and the next."""
    ring = LogRing(limit)
    for number, data in enumerate(written):
        stream, text = data if isinstance(data, tuple) else ("stdout", data)
        ring.append(stream, 1, number * every, text)
    return ring


def texts(ring: LogRing, last: int | None = None) -> list[str]:
    return [item.text if isinstance(item, LogLine) else "lost" for item in LogReader(KEY, ring, last).read()]


# ---- bounded


def test_the_newest_bytes_are_kept_within_the_limit_whatever_the_size_of_the_chunks() -> None:
    for size in (1, 7, 100, SMALL, 5000, 64 * 1024):
        ring = LogRing(10_000)
        data = bytes(ord("a") + number % 26 for number in range(size))
        for _ in range(70_000 // size):
            ring.append("stdout", 1, 0.0, data)
            assert ring.cost <= 10_000
        kept = b"".join(chunk.data for chunk in ring.streams["stdout"].chunks)
        assert data.endswith(kept[-size:])
        assert len(kept) >= 10_000 * SMALL / (2 * (SMALL + CHUNK_COST))


def test_bytes_that_come_one_by_one_do_not_cost_a_chunk_each() -> None:
    ring = ring_of(*[b"x"] * 1000, every=60)
    assert len(ring.streams["stdout"].chunks) == 2


def test_a_flood_on_one_stream_leaves_the_other_half_of_the_memory() -> None:
    ring = LogRing(10_000)
    ring.append("stderr", 1, 0.0, b"why it died\n")
    for _ in range(100):
        ring.append("stdout", 1, 0.0, b"x" * 99 + b"\n")
    assert texts(ring)[0] == "why it died"


# ---- lines


def test_lines_are_told_in_the_order_in_which_their_ends_came() -> None:
    ring = ring_of(b"out", ("stderr", b"first\n"), b"put\n", ("stderr", b"last\n"), every=0)
    assert texts(ring) == ["first", "output", "last"]


def test_a_line_has_the_time_of_its_end_and_joined_chunks_do_not_change_that() -> None:
    ring = ring_of(b"a", b"b", b"c\nd", b"\n", every=60)
    lines = [(item.text, item.time) for item in LogReader(KEY, ring).read() if isinstance(item, LogLine)]
    assert lines == [("abc", 120), ("d", 180)]


def test_lines_that_come_close_together_share_a_chunk() -> None:
    ring = ring_of(*[b"line\n"] * 20, every=TICK / 100)
    assert len(ring.streams["stdout"].chunks) == 1


def test_lines_that_are_longer_than_64_kib_come_in_pieces() -> None:
    ring = ring_of(b"x" * 50_000, b"x" * 100_000, b"\nnext\n", limit=1_000_000)
    lines = texts(ring)
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 150_000 - 2 * MAX_LINE_BYTES, 4]


def test_bytes_that_are_no_utf_8_stay_readable_and_characters_are_not_cut() -> None:
    euro = "€".encode()
    ring = ring_of(b"\xff\xfe" + euro[:1], euro[1:] + b"\n", b"x" * (SLICE - 1) + euro + b"\n", every=60)
    assert texts(ring) == ["\\xff\\xfe€", "x" * (SLICE - 1) + "€"]


def test_an_unfinished_line_ends_with_its_attempt() -> None:
    ring = ring_of(b"half")
    reader = LogReader(KEY, ring)
    assert list(reader.read()) == []
    ring.finish("stdout", 1, 7.0)
    ring.append("stdout", 2, 8.0, b"new\n")
    assert [(item.text, item.generation) for item in reader.read() if isinstance(item, LogLine)] == [
        ("half", 1),
        ("new", 2),
    ]


def test_a_line_whose_beginning_was_dropped_is_left_out() -> None:
    ring = ring_of(b"x" * 3000 + b"\nwhole\n", limit=1200)
    assert texts(ring) == ["whole"]


def test_what_is_kept_of_a_line_that_has_not_ended_is_shown_though_its_beginning_was_dropped() -> None:
    reader = LogReader(KEY, ring_of(b"x" * 3000 + b"the end", limit=1200))
    assert list(reader.read()) == []
    (line,) = reader.unfinished()
    assert str(line) == "x" * (1000 - len("the end")) + "the end"


def test_the_last_lines_are_found_whatever_chunk_they_are_in() -> None:
    written = [b"one\ntw", b"o\n", b"three\nfour\n", b"fi", b"ve\n", b"six"]
    for count in range(8):
        ring = ring_of(*written, every=60)
        assert texts(ring, count) == ["one", "two", "three", "four", "five"][max(0, 5 - count) :]


def test_the_end_of_an_attempt_counts_as_the_end_of_a_line() -> None:
    ring = ring_of(b"one\nhalf")
    ring.finish("stdout", 1, 1.0)
    ring.append("stdout", 2, 2.0, b"two\nthree")
    assert [texts(ring, count) for count in range(4)] == [[], ["two"], ["half", "two"], ["one", "half", "two"]]


# ---- a reader that is too slow


def follower(ring: LogRing) -> LogReader:
    """A reader that goes on later, so that what it misses is counted."""
    reader = LogReader(KEY, ring)
    ring.readers.add(reader)
    return reader


def test_a_slow_reader_is_told_how_much_it_missed_and_goes_on_with_a_whole_line() -> None:
    ring = LogRing(2000)
    reader = follower(ring)
    ring.append("stdout", 1, 0.0, b"seen\nha")
    assert [str(item) for item in reader.read()] == ["seen"]
    for number in range(100):
        ring.append("stdout", 1, 0.0, b"line %03d of many more lines\n" % number)
    lost, *rest = reader.read()
    assert isinstance(lost, LinesLost)
    shown = [str(item) for item in rest]
    assert shown == [f"line {number:03} of many more lines" for number in range(100 - len(rest), 100)]
    assert lost.lines == 100 - len(rest)
    assert lost.bytes == len(b"ha") + lost.lines * len(b"line 000 of many more lines\n")
    assert str(lost.lines) in str(lost)


def test_a_lost_end_of_an_attempt_does_not_join_its_last_line_to_the_next_one() -> None:
    ring = LogRing(1200)
    reader = follower(ring)
    ring.append("stdout", 1, 0.0, b"half")
    assert list(reader.read()) == []
    ring.finish("stdout", 1, 0.0)
    ring.append("stdout", 2, 0.0, b"y" * 989 + b"\nnew\n")
    lost, *rest = reader.read()
    assert isinstance(lost, LinesLost)
    assert (lost.lines, lost.bytes) == (1, 4)
    assert [len(str(item)) for item in rest] == [989, 3]


@attrs.frozen
class Append:
    stream: Stream
    data: bytes


Action = Append | Literal["finish", "read one", "read all"]
PIECES = st.binary(max_size=30) | st.sampled_from(
    [b"\n", b"\n\n", b"end\n", b"x" * 700, b"y" * 2000 + b"\n", b"short line\n" * 60, b"\n" * 300]
)
ACTIONS = st.lists(
    st.builds(Append, st.sampled_from(["stdout", "stderr"]), PIECES)
    | st.sampled_from(["finish", "read one", "read all"]),
    max_size=60,
)


def true_lines(actions: Sequence[Action], stream: Stream) -> list[tuple[bytes, bool]]:
    """The lines that were written to *stream*, and whether each has a line end."""
    found: list[tuple[bytes, bool]] = []
    rest = b""
    for action in (*actions, "finish"):
        if isinstance(action, Append) and action.stream == stream:
            *lines, rest = (rest + action.data).split(b"\n")
            found += [(line, True) for line in lines]
        elif action == "finish" and rest:
            found.append((rest, False))
            rest = b""
    return found


@settings(max_examples=400)
@given(ACTIONS, st.sampled_from([1024, 2000, 5000, 1_000_000]), st.sampled_from([0.0, 60.0]))
def test_every_line_is_seen_once_or_counted(actions: Sequence[Action], limit: int, every: float) -> None:
    ring = LogRing(limit)
    reader = follower(ring)
    seen: list[LogLine | LinesLost] = []
    now, generation = 0.0, 1
    for action in (*actions, "finish", "read all"):
        now += every
        if isinstance(action, Append):
            if action.data:  # a pump never hands over nothing
                ring.append(action.stream, generation, now, action.data)
        elif action == "finish":
            ring.finish("stdout", generation, now)
            ring.finish("stderr", generation, now)
            generation += 1
        elif action == "read one":
            seen += reader.read_some()
        else:
            seen += reader.read()
        assert ring.cost <= limit
    for stream, lines in ((stream, true_lines(actions, stream)) for stream in ring.streams):
        position = byte_count = 0
        fragment = False
        for item in seen:
            if item.stream != stream:
                continue
            if isinstance(item, LinesLost):
                position += item.lines
                byte_count += item.bytes
                fragment = True
                assert item.bytes > 0 or item.lines > 0
                continue
            true, has_end = lines[position]
            shown = true.decode("utf-8", "backslashreplace")
            if item.text == shown:
                byte_count += len(true) + has_end
            else:
                # Nothing that is kept even ended: then a part of it is shown.
                assert fragment
                assert len(true) > 0
                part = next(
                    part for part in (true[cut:] for cut in range(len(true) + 1))
                    if part.decode("utf-8", "backslashreplace") == item.text
                )  # fmt: skip
                byte_count += len(part) + has_end
            position += 1
            fragment = False
        assert position == len(lines)
        assert byte_count == sum(len(line) + has_end for line, has_end in lines)
        if limit == 1_000_000:
            assert not any(isinstance(item, LinesLost) for item in seen)
