from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_sup.engine._listeners import ListenerWatch
from trio_sup.engine._sockets import SocketTable


@pytest.fixture
def table() -> Iterator[SocketTable]:
    with SocketTable() as table:
        yield table


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def waited_for(watch: ListenerWatch, port: int) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            await watch.wait_for(port)
            running.cancel_scope.cancel()


async def test_a_port_that_listens_already_is_told(table: SocketTable, free_port: int) -> None:
    with listen(free_port):
        await waited_for(ListenerWatch(table), free_port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("netlink", [True, False], ids=["netlink", "proc"])
async def test_a_listener_wakes_all_who_wait_for_its_port_and_nobody_else(
    free_port: int, host: str, netlink: bool
) -> None:
    woken: list[str] = []

    async def wait(name: str, port: int) -> None:
        await watch.wait_for(port)
        woken.append(name)

    with trio.fail_after(30), SocketTable(netlink=netlink) as table:
        watch = ListenerWatch(table)
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            async with trio.open_nursery() as nursery:
                for name in ("one", "two"):
                    nursery.start_soon(wait, name, free_port)
                async with trio.open_nursery() as others:
                    others.start_soon(wait, "other", 1)
                    await wait_all_tasks_blocked()
                    assert woken == []
                    with listen(free_port, host):
                        while len(woken) < 2:
                            await trio.lowlevel.checkpoint()
                    await wait_all_tasks_blocked()
                    others.cancel_scope.cancel()
            running.cancel_scope.cancel()
    assert sorted(woken) == ["one", "two"]


async def test_a_cancelled_wait_leaves_nothing_behind_and_the_watch_goes_to_sleep(
    table: SocketTable, free_port: int
) -> None:
    watch = ListenerWatch(table)
    with trio.fail_after(30):
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            for _ in range(2):  # it also wakes up again
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch.wait_for, free_port)
                    await wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                assert not watch._waiters
                # Returns only when no task has run for five intervals: a watch that still looks would keep it going.
                await wait_all_tasks_blocked(cushion=0.02)
            with listen(free_port):
                await watch.wait_for(free_port)
            running.cancel_scope.cancel()


class Broken(SocketTable):
    def listening_ports(self) -> set[int]:
        raise RuntimeError("never seen before")


async def test_a_table_that_fails_is_replaced(free_port: int) -> None:
    watch = ListenerWatch(Broken(netlink=False))
    with trio.fail_after(30):
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.wait_for, free_port)
                await wait_all_tasks_blocked()
                assert watch._waiters
                with listen(free_port):
                    while watch._waiters:
                        await trio.lowlevel.checkpoint()
            running.cancel_scope.cancel()


async def test_nobody_is_kept_waiting_when_the_kernel_tells_nothing(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_sup.engine._listeners.SocketTable", Broken)
    await waited_for(ListenerWatch(Broken(netlink=False)), free_port)


async def test_a_table_that_fails_later_wakes_those_who_wait(
    table: SocketTable, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ListenerWatch(table)
    with trio.fail_after(30):
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.wait_for, free_port)
                await wait_all_tasks_blocked()
                monkeypatch.setattr(SocketTable, "listening_ports", Broken.listening_ports)
            running.cancel_scope.cancel()
