from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from trio_sup.engine._identity import Identity, Verdict, identify
from trio_sup.engine._sockets import Socket, SocketTable

from .conftest import StartChild, without_privileges


@pytest.fixture
def table() -> Iterator[SocketTable]:
    with SocketTable() as table:
        yield table


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers are named however busy the machine is."""
    monkeypatch.setattr("trio_sup.engine._identity._NAMING_BUDGET", 60.0)


@pytest.fixture
def bystander(start_child: StartChild) -> int:
    """A process without sockets."""
    return start_child("holds.py", 0)[0]


def listening(start_child: StartChild, host: str, port: int, *options: str) -> int:
    pid, line = start_child("listens.py", host, port, *options)
    assert line == "listening"
    return pid


def nobody_asks() -> Iterable[int]:
    raise AssertionError("a pass over the tree was made, although the leader holds everything")


def judge(
    table: SocketTable,
    port: int,
    leader: int,
    *more: int,
    client: socket.socket | None = None,
    uid: int | None = None,
) -> Identity:
    return identify(
        port,
        lambda: [leader, *more],
        table,
        leader=leader,
        uid=os.geteuid() if uid is None else uid,
        connection=(client.getsockname(), client.getpeername()) if client else None,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_of_the_leader_is_ours_without_a_pass_over_the_tree(
    table: SocketTable, free_port: int, start_child: StartChild, host: str
) -> None:
    pid = listening(start_child, host, free_port)
    found = identify(free_port, nobody_asks, table, leader=pid, uid=os.geteuid(), connection=None)
    assert found == Identity(Verdict.OURS, uid_matches=True)


def test_a_listener_of_another_process_of_the_tree_is_ours(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int
) -> None:
    pid = listening(start_child, "127.0.0.1", free_port)
    assert judge(table, free_port, bystander, pid).verdict is Verdict.OURS


def test_the_uid_of_the_sockets_is_told(table: SocketTable, free_port: int, start_child: StartChild) -> None:
    pid = listening(start_child, "127.0.0.1", free_port)
    assert judge(table, free_port, pid).uid_matches is True
    assert judge(table, free_port, pid, uid=54321).uid_matches is False


@pytest.mark.usefixtures("patient")
def test_a_listener_outside_the_tree_is_a_stranger_and_is_named(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int
) -> None:
    pid = listening(start_child, "127.0.0.1", free_port)
    found = judge(table, free_port, bystander)
    assert found.verdict is Verdict.STRANGER
    assert found.listens
    command = Path(f"/proc/{pid}/comm").read_text().strip()
    assert f"port {free_port}" in found.why
    assert f"uid {os.geteuid()}, pid {pid} ({command})" in found.why


def test_naming_a_stranger_takes_no_longer_than_allowed(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_sup.engine._identity._NAMING_BUDGET", 0.0)
    listening(start_child, "127.0.0.1", free_port)
    found = judge(table, free_port, bystander)
    assert (found.verdict, found.why) == (Verdict.STRANGER, f"port {free_port} is served by uid {os.geteuid()}")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_stranger_beside_our_listener_is_a_stranger(
    table: SocketTable, free_port: int, start_child: StartChild, host: str
) -> None:
    ours = listening(start_child, "127.0.0.1", free_port, "reuseport")
    assert judge(table, free_port, ours).verdict is Verdict.OURS
    stranger = listening(start_child, host, free_port, "reuseport")
    found = judge(table, free_port, ours)
    assert found.verdict is Verdict.STRANGER
    assert f"pid {stranger} " in found.why
    assert f"pid {ours} " not in found.why


def test_a_server_that_listens_only_in_v6_is_ours_for_a_v4_client(
    table: SocketTable, free_port: int, start_child: StartChild
) -> None:
    pid = listening(start_child, "::", free_port, "accept", "reuseaddr")
    with socket.create_connection(("127.0.0.1", free_port), timeout=30) as client:
        assert client.recv(100) == b"accepted"
        # The first process has closed its listener and keeps the connection; a second one listens now.
        second = listening(start_child, "::", free_port, "reuseaddr")
        assert judge(table, free_port, pid, second, client=client).verdict is Verdict.OURS
        assert judge(table, free_port, second).verdict is Verdict.OURS
        assert judge(table, free_port, second, client=client).verdict is Verdict.STRANGER


def test_a_grpc_core_server_is_ours(table: SocketTable, free_port: int, start_child: StartChild) -> None:
    pid, _ = start_child("serves_grpc.py", f"127.0.0.1:{free_port}")
    with socket.create_connection(("127.0.0.1", free_port), timeout=30) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert client.recv(9)  # its own settings: it has accepted
        assert judge(table, free_port, pid, client=client) == Identity(Verdict.OURS, uid_matches=True)


def test_a_connection_whose_server_end_is_closed_is_no_evidence(
    table: SocketTable, free_port: int, start_child: StartChild
) -> None:
    ours = listening(start_child, "127.0.0.1", free_port)
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()) as client:
        server, _ = other.accept()
        assert judge(table, free_port, ours, client=client).verdict is Verdict.STRANGER
        server.close()
        assert client.recv(1) == b""
        assert judge(table, free_port, ours, client=client).verdict is Verdict.OURS


def test_an_answer_from_outside_the_tree_is_a_stranger_though_nothing_listens(
    table: SocketTable, free_port: int, bystander: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        client = socket.create_connection(other.getsockname())
        server, _ = other.accept()
    with client, server:
        found = judge(table, client.getpeername()[1], bystander, client=client)
        assert (found.verdict, found.listens) == (Verdict.STRANGER, False)
        found = judge(table, client.getpeername()[1], os.getpid(), client=client)
        assert (found.verdict, found.listens) == (Verdict.UNKNOWN, False)


def test_a_port_on_which_nothing_is_seen_to_listen_is_unknown(table: SocketTable, free_port: int) -> None:
    found = judge(table, free_port, os.getpid())
    assert (found.verdict, found.uid_matches, found.listens) == (Verdict.UNKNOWN, None, False)
    assert f"no listener on port {free_port}" in found.why


def test_a_tree_whose_descriptors_cannot_be_read_is_unknown(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int
) -> None:
    pid = listening(start_child, "127.0.0.1", free_port, "undumpable")
    uid = os.geteuid()
    with without_privileges():
        found = judge(table, free_port, pid, bystander, uid=uid)
    assert "cannot all be read" in found.why
    assert (found.verdict, found.uid_matches) == (Verdict.UNKNOWN, True)


def test_a_table_that_cannot_be_read_is_unknown(free_port: int) -> None:
    class Unreadable(SocketTable):
        def listeners_on(self, port: int) -> list[Socket]:
            raise PermissionError("no /proc here")

    found = judge(Unreadable(netlink=False), free_port, os.getpid())
    assert (found.verdict, found.uid_matches) == (Verdict.UNKNOWN, None)
    assert "no /proc here" in found.why


def test_a_listener_replaced_while_we_look_is_still_ours(free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port), reuse_port=True) as first:
        second = socket.create_server(("127.0.0.1", free_port), reuse_port=True)

        class Replacing(SocketTable):
            def listeners_on(self, port: int) -> list[Socket]:
                found = super().listeners_on(port)
                first.close()
                return found

        with second, Replacing() as table:
            assert judge(table, free_port, os.getpid()).verdict is Verdict.OURS


def test_a_listener_handed_to_a_child_just_forked_is_still_ours(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int
) -> None:
    pid = listening(start_child, "127.0.0.1", free_port)
    passes = iter([[bystander], [bystander, pid]])
    found = identify(free_port, lambda: next(passes), table, leader=bystander, uid=os.geteuid(), connection=None)
    assert found.verdict is Verdict.OURS


def test_a_listener_that_never_stays_the_same_is_unknown(free_port: int, bystander: int) -> None:
    opened: list[socket.socket] = []

    class Restless(SocketTable):
        def listeners_on(self, port: int) -> list[Socket]:
            if opened:
                opened.pop().close()
            opened.append(socket.create_server(("127.0.0.1", port)))
            return super().listeners_on(port)

    with Restless() as table:
        found = judge(table, free_port, bystander)
    opened.pop().close()
    assert found.verdict is Verdict.UNKNOWN
    assert "change too quickly" in found.why


def test_what_was_found_to_be_ours_is_not_looked_for_again(
    table: SocketTable, free_port: int, start_child: StartChild, bystander: int
) -> None:
    pid = listening(start_child, "127.0.0.1", free_port, "reuseport")
    proven: set[int] = set()
    uid = os.geteuid()

    def look(tree_pids: Callable[[], Iterable[int]]) -> Verdict:
        return identify(free_port, tree_pids, table, leader=bystander, uid=uid, connection=None, proven=proven).verdict

    assert look(lambda: [pid]) is Verdict.OURS
    assert proven == {one.inode for one in table.listeners_on(free_port)}
    assert look(nobody_asks) is Verdict.OURS
    with socket.create_server(("127.0.0.1", free_port), reuse_port=True):
        assert look(lambda: [pid]) is Verdict.STRANGER
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with socket.create_server(("127.0.0.1", free_port), reuse_port=True):
        assert look(lambda: [bystander]) is Verdict.STRANGER
        assert proven == set()
