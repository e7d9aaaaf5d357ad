"""When it is proven that nothing of a tree is left."""

from __future__ import annotations

from trio_sup.guard._search import CLEAN_PASSES, MAX_WASTED_PASSES, Proof


def passes_until_complete(proof: Proof, *, doubtful: bool = False) -> int:
    count = 0
    while not proof.complete:
        proof.note(found=False, doubtful=doubtful)
        count += 1
    return count


def test_it_takes_several_passes_in_a_row_that_find_nothing() -> None:
    assert passes_until_complete(Proof()) == CLEAN_PASSES


def test_a_pass_that_finds_something_begins_it_anew() -> None:
    proof = Proof()
    for _ in range(CLEAN_PASSES - 1):
        proof.note(found=False, doubtful=False)
    proof.note(found=True, doubtful=False)
    assert passes_until_complete(proof) == CLEAN_PASSES


def test_a_pass_in_doubt_proves_nothing_until_that_has_gone_on_for_too_long() -> None:
    proof = Proof()
    for _ in range(CLEAN_PASSES - 1):
        proof.note(found=False, doubtful=False)
    proof.note(found=False, doubtful=True)
    assert passes_until_complete(proof) == 1
    assert passes_until_complete(Proof(), doubtful=True) == MAX_WASTED_PASSES + CLEAN_PASSES
