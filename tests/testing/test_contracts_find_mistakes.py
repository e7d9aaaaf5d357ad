"""A strategy with a likely mistake does not pass its contract, which says what it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from trio_sup import BackendSpec
from trio_sup.strategies import InstallLock, Launch, LaunchPreparation, Probe, ProbeTarget, WarmUp, WarmUpTarget
from trio_sup.testing.contracts import InstallLockContract, LaunchPreparationContract, ProbeContract, WarmUpContract
from trio_sup.testing.contracts._common import SYNCHRONOUS_LIMIT


class Mistaken:
    """A probe and a warm-up that return whether all is well; the probe finds a port enough to speak of gRPC."""

    needs_listener = speaks_grpc = True

    async def check(self, target: ProbeTarget) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    def budget(self, spec: BackendSpec) -> float:
        return 5.0

    async def warm_up(self, target: WarmUpTarget) -> bool:
        await trio.lowlevel.checkpoint()
        return False


class Connects(Mistaken):
    async def check(self, target: ProbeTarget) -> None:  # type: ignore[override]  # here it does as it should
        await (await trio.open_tcp_stream(target.host, target.port)).aclose()


class Blocks(Mistaken):
    async def warm_up(self, target: WarmUpTarget) -> None:  # type: ignore[override]  # here it does as it should
        await trio.lowlevel.checkpoint()
        time.sleep(SYNCHRONOUS_LIMIT * 2)  # the vice under test


class KeepsNobodyOut:
    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        yield


class ChangesTheSpecification:
    def check(self, spec: BackendSpec) -> None:
        """Nothing to look at."""

    def prepare(self, launch: Launch) -> Launch:
        cast(dict[str, str], launch.spec.env)["MINE"] = "1"
        return launch


def test_a_preparation_that_changes_the_specification_fails() -> None:
    class Contract(LaunchPreparationContract):
        def make(self) -> LaunchPreparation:
            return ChangesTheSpecification()

    with pytest.raises(AssertionError, match="changes the specification"):
        Contract().test_what_it_was_given_is_not_changed("usual")


def test_a_probe_that_returns_its_verdict_fails() -> None:
    class Contract(ProbeContract):
        def make(self) -> Probe:
            return Mistaken()  # type: ignore[return-value]  # the mistake under test

    with pytest.raises(AssertionError, match=r"check\(\) returned False: it must return nothing"):
        Contract().test_it_blocks_nobody()


@pytest.mark.parametrize("instead", ["http", "mute"])
def test_a_probe_that_proves_no_grpc_and_says_so_fails(instead: str) -> None:
    class Contract(ProbeContract):
        def make(self) -> Probe:
            return Connects()

    with pytest.raises(AssertionError, match="speaks_grpc must be False"):
        Contract().test_one_that_proves_grpc_fails_where_something_else_listens(instead)


def test_a_warm_up_that_returns_its_verdict_fails() -> None:
    class Contract(WarmUpContract):
        def make(self) -> WarmUp:
            return Mistaken()  # type: ignore[return-value]  # the mistake under test

    with pytest.raises(AssertionError, match=r"warm_up\(\) returned False: it must return nothing"):
        Contract().test_it_blocks_nobody()


def test_a_warm_up_that_blocks_fails() -> None:
    class Contract(WarmUpContract):
        def make(self) -> WarmUp:
            return Blocks()

    with pytest.raises(AssertionError, match="everything else waits for it"):
        Contract().test_it_blocks_nobody()


def test_a_lock_that_keeps_nobody_out_fails() -> None:
    class Contract(InstallLockContract):
        def make(self) -> InstallLock:
            return KeepsNobodyOut()

    with pytest.raises(AssertionError, match="shared is let in while somebody holds it exclusive"):
        Contract().test_who_keeps_whom_out("exclusive", "shared")
