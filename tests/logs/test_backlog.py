"""The bounded queue before a writer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_sup._backlog import ITEM_COST, Backlog, Lost


def test_entries_come_out_in_the_order_they_came_in() -> None:
    backlog: Backlog[str] = Backlog(10_000)
    for text in ("one", "two", "three"):
        backlog.put(text[0], text, len(text))
    assert list(backlog.take(10_000)) == ["one", "two", "three"]
    assert not backlog


def test_the_source_that_holds_most_loses_its_oldest_and_is_told_so_in_place() -> None:
    backlog: Backlog[str] = Backlog(10 * ITEM_COST)
    backlog.put("quiet", "quiet", 5)
    for number in range(100):
        backlog.put("loud", f"loud {number}", ITEM_COST)
    backlog.put("quiet", "still here", 5)
    taken = list(backlog.take(100_000))
    kept = [item for item in taken if isinstance(item, str) and item.startswith("loud")]
    lost = 100 - len(kept)
    assert taken == ["quiet", Lost("loud", lost * ITEM_COST), *kept, "still here"]
    assert kept[-1] == "loud 99"
    assert kept


def test_a_batch_is_about_as_large_as_asked_for() -> None:
    backlog: Backlog[str] = Backlog(100 * ITEM_COST)
    for number in range(10):
        backlog.put("a", str(number), ITEM_COST)
    assert list(backlog.take(4 * ITEM_COST)) == ["0", "1"]
    assert backlog


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2000)) | st.integers(1, 3000), max_size=200))
def test_nothing_is_lost_unnoticed_or_kept_above_the_limit(actions: list[tuple[str, int] | int]) -> None:
    limit = 5000
    backlog: Backlog[tuple[str, int]] = Backlog(limit)
    put = dict.fromkeys("abc", 0)
    seen = dict.fromkeys("abc", 0)
    held = 0

    def look(size: int) -> None:
        nonlocal held
        held = 0
        for item in backlog.take(size):
            source, count = (str(item.source), item.count) if isinstance(item, Lost) else item
            seen[source] += count
            held += 0 if isinstance(item, Lost) else count + ITEM_COST

    for action in actions:
        if isinstance(action, int):
            look(action)
        else:
            source, size = action
            put[source] += size
            backlog.put(source, action, size)
    look(10**9)
    assert held <= limit
    assert seen == put
