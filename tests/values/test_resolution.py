"""Which slots an identifier means, against the rules of the LocalAI worker (spec 3.2, B12, B13, B25-B33, B53, B54)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_sup
from trio_sup import BackendSpec, ProcessKey
from trio_sup._resolution import resolve

names = st.sampled_from(["a", "b", "a-development", "c"])
models = st.sampled_from(["a", "b", "m", "m#1", "a#0", "#"])
specs = st.builds(
    lambda name, aliases: BackendSpec(name=name, command=["x"], aliases=aliases),
    names,
    st.sets(names, max_size=2),
)
keys = st.builds(ProcessKey, models, st.integers(0, 2))
slots = st.dictionaries(keys, specs, max_size=8)
identifiers = st.one_of(keys.map(str), models, names, st.sampled_from(["a#", "#0", "m#x", "none", "a#9"]))


@given(slots, identifiers)
def test_resolution_follows_the_rules(table: dict[ProcessKey, BackendSpec], identifier: str) -> None:
    found = resolve(identifier, table.items())
    assert len(found) == len(set(found))
    assert set(found) <= set(table)
    exact = [key for key in table if str(key) == identifier]
    if exact:
        assert list(found) == exact
    elif "#" in identifier:
        assert found == ()
    else:
        for key, spec in table.items():
            means_it = key.model == identifier or spec.name == identifier or identifier in spec.aliases
            assert (key in found) == means_it


@given(keys)
def test_writing_and_reading_a_key_are_inverse(key: ProcessKey) -> None:
    assert ProcessKey.parse(str(key)) == key


@given(st.text(max_size=12))
def test_reading_a_key_gives_a_key_or_a_typed_error(text: str) -> None:
    try:
        key = ProcessKey.parse(text)
    except trio_sup.TrioSupError:
        return
    assert ProcessKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "#", "a", "a#", "#1", "a#x", "a#-1", "a#1.0", "a# 1", "a#٣"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(trio_sup.InvalidValue):
        ProcessKey.parse(text)


def test_a_shared_alias_does_not_make_two_backends_one() -> None:
    one = BackendSpec(name="cuda-llama", command=["x"], aliases=["llama"])
    two = BackendSpec(name="cpu-llama", command=["x"], aliases=["llama"])
    by_alias = BackendSpec(name="llama", command=["x"])
    assert one.differs_from(two) == ("name",)
    assert one.differs_from(by_alias) == by_alias.differs_from(one) == ()
