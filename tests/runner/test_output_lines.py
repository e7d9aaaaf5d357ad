"""From bytes to the lines that are shown."""

from __future__ import annotations

import json
from typing import Literal

from trio_sup import ProcessKey
from trio_sup._backlog import Lost
from trio_sup.engine import Output
from trio_sup.runner._lines import EndOf, Json, Line, Prefixed, Renderer, Shown

A, LONGER = ProcessKey("a"), ProcessKey("longer")


def output(
    data: bytes, key: ProcessKey = A, stream: Literal["stdout", "stderr"] = "stdout", generation: int = 1
) -> Output:
    return Output(key, generation, stream, data)


def rendered(*items: Shown | Lost, renderer: Renderer | None = None) -> list[str]:
    renderer = renderer or Renderer(Prefixed(8))
    return b"".join(piece for item in items for piece in renderer.render(item)).decode().splitlines()


def test_lines_are_aligned_and_stderr_is_marked() -> None:
    shown = rendered(output(b"one\n"), output(b"two\n", LONGER, "stderr"), Line("ours"))
    assert shown == ["a#0      | one", "longer#0 ! two", "ours"]


def test_lines_of_different_streams_and_keys_are_not_mixed() -> None:
    shown = rendered(output(b"o"), output(b"e", stream="stderr"), output(b"l", LONGER), output(b"ut\n"), EndOf())
    assert shown == ["a#0      | out", "a#0      ! e", "longer#0 | l"]


def test_the_unfinished_line_of_a_generation_is_shown_before_the_next_one() -> None:
    assert rendered(output(b"half"), output(b"new\n", generation=2)) == ["a#0      | half", "a#0      | new"]


def test_the_end_of_one_key_leaves_the_others_unfinished() -> None:
    assert rendered(output(b"half"), output(b"other", LONGER), EndOf(A)) == ["a#0      | half"]


def test_invalid_utf_8_is_shown_escaped() -> None:
    assert rendered(output(b"\xff\xc3\xa9\n")) == ["a#0      | \\xffé"]


def test_a_character_cut_in_two_by_the_pipe_is_put_together() -> None:
    assert rendered(output(b"\xc3"), output(b"\xa9\n")) == ["a#0      | é"]


def test_what_was_lost_is_counted_and_named_after_the_unfinished_line() -> None:
    assert rendered(output(b"half"), Lost(A, 7), output(b"rest\n")) == [
        "a#0      | half",
        "a#0      … 7 bytes are missing here: this output is read too slowly",
        "a#0      | rest",
    ]


def test_json_lines_are_objects() -> None:
    shown = rendered(output('say "é"\n'.encode()), Lost(A, 7), renderer=Renderer(Json()))
    assert [json.loads(line) for line in shown] == [
        {"type": "output", "key": "a#0", "stream": "stdout", "text": 'say "é"'},
        {"type": "lost", "source": "a#0", "bytes": 7},
    ]
