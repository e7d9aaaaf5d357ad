"""Limited backends under a real supervisor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_sup_limits

import trio_sup
from trio_sup import BackendSpec, InvalidValue, Readiness

pytestmark = pytest.mark.usefixtures("nothing_survives")

READY = Readiness(probe={"strategy": "exec", "command": ["true"]}, timeout=20)


def spec_of(script: str, **limits: Any) -> BackendSpec:
    # A placeholder that is used keeps the engine from appending `--addr`.
    return BackendSpec(
        name="limited",
        command=["sh", "-c", script, "{port}"],
        readiness=READY,
        launch=[{"strategy": "limits", **limits}],
        grace=0.3,
    )


async def test_a_supervised_backend_runs_within_its_limits() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(plugins=[trio_sup_limits], install_lock="memory") as sup:
            backend = await sup.start(spec_of("exec sleep 300", nofile=128, umask="027"))
            await until_executed(backend.pid, "sleep")
            limits = Path(f"/proc/{backend.pid}/limits").read_text()
            status = Path(f"/proc/{backend.pid}/status").read_text()
            (report,) = await sup.stop("limited")
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == ["128", "128"]
    assert "Umask:\t0027" in status
    assert report.gone


async def test_what_cannot_be_applied_is_refused_before_anything_starts() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(plugins=[trio_sup_limits], install_lock="memory") as sup:
            with pytest.raises(InvalidValue, match="user: there is no user of that name"):
                await sup.start(spec_of("exec sleep 300", user="no-such-user"))
            assert sup.backends == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a process of another user")
async def test_a_backend_of_another_user_is_stopped_and_its_tree_proven_gone() -> None:
    # One child stays, one leaves the session, and none heeds the polite signal.
    script = "trap '' TERM; sleep 300 & setsid sleep 300 & while :; do sleep 300; done"
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(plugins=[trio_sup_limits], install_lock="memory") as sup:
            backend = await sup.start(spec_of(script, user="nobody", no_new_privileges=True))
            sleepers = await until_running("sleep", of=backend.pid, count=3)
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in sleepers} == {65534}
            (report,) = await sup.stop("limited")
    assert report.gone
    assert report.report is not None
    assert report.report.killed
    assert not [pid for pid in sleepers if is_alive(pid)]


def command_of(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def descendants(pid: int | None) -> set[int]:
    try:
        direct = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()
    return direct.union(*(descendants(child) for child in direct))


async def until_executed(pid: int | None, command: str) -> None:
    while command_of(pid) != command:
        await trio.sleep(0.005)


async def until_running(command: str, *, of: int | None, count: int) -> set[int]:
    while len(found := {pid for pid in descendants(of) if command_of(pid) == command}) < count:
        await trio.sleep(0.005)
    return found
