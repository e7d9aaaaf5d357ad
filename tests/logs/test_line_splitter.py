"""From chunks to lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_sup._line_splitter import MAX_LINE_BYTES, LineSplitter


def test_long_lines_are_cut_between_characters() -> None:
    splitter = LineSplitter()
    pieces = [*splitter.feed(b"x" + "é".encode() * MAX_LINE_BYTES), *splitter.feed(b"end\n")]
    assert all(len(piece) <= MAX_LINE_BYTES for piece in pieces)
    assert len(pieces) == 3
    assert "".join(piece.decode() for piece in pieces) == "x" + "é" * MAX_LINE_BYTES + "end"


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"x" * MAX_LINE_BYTES, b"\x80" * 70_000]), max_size=8))
def test_nothing_is_added_or_lost_by_cutting(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)] + list(splitter.flush())
    assert b"".join(pieces) == b"".join(chunks).replace(b"\n", b"")
    assert all(len(piece) <= MAX_LINE_BYTES for piece in pieces)
    assert list(splitter.flush()) == []
