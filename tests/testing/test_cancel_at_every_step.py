"""Cancelling an operation at each of its steps."""

from __future__ import annotations

import pytest
import trio

from trio_sup.testing import cancel_at_every_step


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


async def test_what_fails_is_told_with_its_step() -> None:
    done = 0

    async def operation() -> None:
        nonlocal done
        done = 0
        for _ in range(5):
            await trio.lowlevel.checkpoint()
            done += 1

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        assert done != 2, "it stops halfway"

    with pytest.raises(AssertionError, match="halfway") as caught:
        await cancel_at_every_step(operation, check)
    (note,) = [note for note in caught.value.__notes__ if "step" in note]
    assert note == "when it was cancelled at step 3"


@pytest.mark.parametrize("stride", [0, -1])
async def test_a_stride_that_never_ends_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="stride: expected at least 1"), trio.fail_after(5):
        await cancel_at_every_step(nothing, nothing, stride=stride)
