"""What can go wrong between the fork and the moment at which a process is watched."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import child_command, children
from trio_sup import BackendSpec, Readiness
from trio_sup.engine._guard import Guard

pytestmark = pytest.mark.usefixtures("nothing_survives")

SPEC = BackendSpec(name="listens", command=child_command("listens"), readiness=Readiness(probe="tcp", timeout=20))
LIMIT = 100


@contextmanager
def more_open_than(limit: int) -> Iterator[None]:
    """For the length of the block, too much is open for the own limit to be lowered to *limit* during a launch."""
    with ExitStack() as stack:
        while stack.enter_context(open(os.devnull)).fileno() < limit:
            pass
        yield


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EPERM], ids=["it has ended", "it is another user's"])
async def test_a_limit_that_cannot_be_set_any_more_is_no_reason_to_lose_a_process(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[int] = []
    refused: list[int] = []
    register = Guard.register

    def note(guard: Guard, pid: int, started: int) -> None:
        registered.append(pid)
        register(guard, pid, started)

    def refuse(pid: int, *_: Any) -> None:
        assert pid in registered
        refused.append(pid)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Guard, "register", note)
    monkeypatch.setattr(resource, "prlimit", refuse)
    with trio.fail_after(30), more_open_than(LIMIT):
        async with trio_sup.open_supervisor(child_descriptor_limit=LIMIT) as sup:
            backend = await sup.start(SPEC)
            assert refused == [backend.pid]


async def test_a_program_whose_interpreter_is_missing_is_not_said_to_be_missing_itself(tmp_path: Path) -> None:
    script = tmp_path / "serve"
    script.write_text("#!/nowhere/python\n")
    script.chmod(0o755)
    async with trio_sup.open_supervisor() as sup:
        with pytest.raises(trio_sup.LaunchFailed, match=r"what it is run by is not there: .*serve"):
            await sup.start(BackendSpec(name="serve", command=[script]))


async def test_a_limit_that_cannot_be_lowered_during_the_launch_is_set_after_it() -> None:
    with trio.fail_after(30), more_open_than(LIMIT):
        async with trio_sup.open_supervisor(child_descriptor_limit=LIMIT) as sup:
            backend = await sup.start(SPEC)
            assert backend.pid is not None
            assert resource.prlimit(backend.pid, resource.RLIMIT_NOFILE)[0] == LIMIT


async def test_a_process_that_cannot_be_watched_is_ended_and_unknown_to_the_guard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: set[int] = set()
    register, unregister = Guard.register, Guard.unregister

    def note(guard: Guard, pid: int, started: int) -> None:
        known.add(pid)
        register(guard, pid, started)

    def forget(guard: Guard, pid: int) -> None:
        known.discard(pid)
        unregister(guard, pid)

    monkeypatch.setattr(Guard, "register", note)
    monkeypatch.setattr(Guard, "unregister", forget)
    refused: list[int] = []
    pidfd_open = os.pidfd_open

    def refuse(pid: int, flags: int = 0) -> int:
        if pid in known:
            refused.append(pid)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return pidfd_open(pid, flags)

    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            before = children()
            monkeypatch.setattr(os, "pidfd_open", refuse)
            with pytest.raises(trio_sup.LaunchFailed, match="Cannot allocate memory"):
                await sup.start(SPEC)
            monkeypatch.setattr(os, "pidfd_open", pidfd_open)
            assert len(refused) == 1
            assert known == set()
            assert children() == before
            await sup.start(SPEC)
