"""The list of mutations is of today's sources."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, Mutation
from tests.mutations.__main__ import ROOT, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.promise} {each.what}")
def test_a_mutation_changes_what_is_there(mutation: Mutation) -> None:
    text = (ROOT / "trio_sup" / mutation.file).read_text()
    assert mutated(text, mutation) != text
    for test in mutation.tests:
        assert (ROOT / test.partition("::")[0]).exists()


def test_every_promise_has_a_mutation() -> None:
    assert {each.promise for each in MUTATIONS} == {f"P{number}" for number in range(1, 10)}
