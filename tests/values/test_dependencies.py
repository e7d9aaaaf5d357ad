"""Circles of needs: found whenever there is one, and shown as it is."""

from __future__ import annotations

import graphlib
import itertools
import time

import attrs
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import BackendSpec, ProcessKey
from trio_sup._dependencies import find_cycle
from trio_sup._resolution import resolve

NAMES = ["a", "b", "c", "d", "e", "f"]
SPECS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(
        st.integers(1, 3),  # replicas
        st.lists(st.sampled_from([*NAMES, "a#0", "b#1", "c#2", "alias", "nobody"]), max_size=2),
        st.booleans(),  # has the alias
    ),
    max_size=6,
)


def slots_of(drawn: dict[str, tuple[int, list[str], bool]]) -> list[tuple[ProcessKey, BackendSpec]]:
    return [
        (
            ProcessKey(name, replica),
            BackendSpec(name=name, command=["sh"], needs=needs, aliases=["alias"] if alias else []),
        )
        for name, (replicas, needs, alias) in drawn.items()
        for replica in range(replicas)
    ]


def edges_of(slots: list[tuple[ProcessKey, BackendSpec]]) -> dict[str, set[str]]:
    """What each key needs, by the words of the documentation."""
    edges: dict[str, set[str]] = {}
    for key, spec in slots:
        needed = edges.setdefault(str(key), set())
        for need in spec.needs:
            keys = {str(each) for each in resolve(need, slots)}
            needed |= keys - {str(key)} or keys
    return edges


def is_circular(edges: dict[str, set[str]]) -> bool:
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError:
        return True
    return False


@given(SPECS)
def test_a_circle_is_found_exactly_if_there_is_one_and_is_shown_as_it_is(
    drawn: dict[str, tuple[int, list[str], bool]],
) -> None:
    slots = slots_of(drawn)
    edges = edges_of(slots)
    cycle = find_cycle(slots)
    assert (cycle is not None) == is_circular(edges)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(needed in edges[key] for key, needed in itertools.pairwise(cycle))


@given(SPECS, st.data())
def test_looking_at_one_key_finds_every_circle_that_this_key_closes(
    drawn: dict[str, tuple[int, list[str], bool]], data: st.DataObject
) -> None:
    slots = slots_of(drawn)
    without: list[tuple[ProcessKey, BackendSpec]] = []
    for key, spec in data.draw(st.permutations(slots)):
        circular = is_circular(edges_of([*without, (key, spec)]))
        assert (find_cycle([(key, spec), *without], of=key) is not None) == circular
        if not circular:
            without.append((key, spec))


def test_a_key_with_two_specifications_needs_all_that_both_need() -> None:
    a, b = ProcessKey("a"), ProcessKey("b")
    old = BackendSpec(name="a", command=["sh"])
    new = attrs.evolve(old, needs=["b"])
    other = BackendSpec(name="b", command=["sh"], needs=["a"])
    assert find_cycle([(a, old), (b, other)]) is None
    assert find_cycle([(a, old), (a, new), (b, other)]) == ("a#0", "b#0", "a#0")


def test_long_chains_and_many_replicas_are_searched_quickly() -> None:
    chain = [(ProcessKey(f"s{n}"), BackendSpec(name=f"s{n}", command=["sh"], needs=[f"s{n + 1}"])) for n in range(5000)]
    db = [(ProcessKey("db", n), BackendSpec(name="db", command=["sh"])) for n in range(300)]
    api = [(ProcessKey("api", n), BackendSpec(name="api", command=["sh"], needs=["db"])) for n in range(300)]
    began = time.process_time()
    assert find_cycle(chain) is None
    assert find_cycle([*api, *db]) is None
    assert time.process_time() - began < 5
