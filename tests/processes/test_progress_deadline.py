"""Readiness deadlines that the progress of real processes moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import trio_sup
from tests.processes.test_real_children import spec_of
from trio_sup import BackendSpec, Readiness

pytestmark = pytest.mark.usefixtures("nothing_survives")

TIMEOUT = 2.0


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file to load from."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(2**20))
    return file


def loading(seconds: float, by: str, weights: Path, **readiness: Any) -> BackendSpec:
    return spec_of(
        "loads_slowly", "--for", str(seconds), "--by", by, "--file", str(weights), "--addr", "{address}",
        readiness=Readiness(probe="tcp", timeout=TIMEOUT, **readiness), grace=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sign", ["output", *(pytest.param(sign, marks=pytest.mark.slow) for sign in ("reads", "memory"))]
)
async def test_one_that_shows_its_progress_has_time(sign: str, weights: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(loading(2.5 * TIMEOUT, sign, weights, progress=[sign]))
            assert (backend.start_seconds or 0) >= 2.5 * TIMEOUT


@pytest.mark.parametrize(
    ("sign", "by"),
    [
        ("output", "reads"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("reads", "output"), ("memory", "nothing"))),
    ],
)
async def test_one_that_shows_none_has_not(sign: str, by: str, weights: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.NotReadyInTime) as caught:
                await sup.start(loading(20, by, weights, progress=[sign]))
            # An interpreter reads and grows while it starts.
            assert TIMEOUT <= caught.value.timeout <= 2 * TIMEOUT
            assert caught.value.hard_limit is False
            assert f"within {caught.value.timeout:g}s" in str(caught.value)


@pytest.mark.slow
async def test_no_progress_helps_beyond_the_hard_limit(weights: Path) -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.NotReadyInTime, match=r"within 4s .*although it made progress") as caught:
                await sup.start(loading(20, "output", weights, progress=["output"], max_timeout=4))
            assert (caught.value.timeout, caught.value.hard_limit) == (4, True)
