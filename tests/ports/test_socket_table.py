from __future__ import annotations

import errno
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from trio_sup.engine._port_hold import hold_port
from trio_sup.engine._sockets import ESTABLISHED, LISTEN, TIME_WAIT, Socket, SocketTable, socket_inodes

from .conftest import StartChild, without_privileges

KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))


def inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


@pytest.fixture(params=["netlink", "proc", "small buffer"])
def table(request: pytest.FixtureRequest) -> Iterator[SocketTable]:
    netlink = request.param != "proc"
    with SocketTable(netlink=netlink, buffer_bytes=64 if request.param == "small buffer" else 65536) as table:
        yield table
        assert (table._netlink is not None) == netlink, "it fell back to /proc"


@contextmanager
def connected(host: str, *, listen_at: str | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in (listen_at or host) else socket.AF_INET
    listener = socket.create_server((listen_at or host, 0), family=family, dualstack_ipv6=listen_at == "::")
    with listener, socket.create_connection((host, listener.getsockname()[1]), timeout=10) as client:
        server, _ = listener.accept()
        with server:
            yield client, server


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_is_found_by_its_port(table: SocketTable, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        (found,) = table.listeners_on(port)
        assert (found.family, found.address, found.port) == (family, host, port)
        assert (found.state, found.inode, found.uid) == (LISTEN, inode(listener), os.geteuid())
        assert found in table.listeners()
        assert port in table.listening_ports()
    assert table.listeners_on(port) == []
    assert port not in table.listening_ports()


def test_hundreds_of_listeners_are_all_found(table: SocketTable) -> None:
    with ExitStack() as stack:
        ports = {stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(300)}
        assert ports <= table.listening_ports()
        assert ports <= {found.port for found in table.listeners()}


def test_sockets_that_do_not_listen_are_no_listeners(table: SocketTable) -> None:
    placeholder = hold_port(0)
    assert placeholder is not None
    with connected("127.0.0.1") as (client, _), placeholder:
        for port in (client.getsockname()[1], placeholder.getsockname()[1]):
            assert table.listeners_on(port) == []
            assert port not in table.listening_ports()


@pytest.mark.parametrize(
    ("host", "listen_at"), [("127.0.0.1", None), ("::1", None), ("127.0.0.1", "::")], ids=["v4", "v6", "v4 to v6"]
)
def test_each_end_of_a_connection_is_found_exactly(table: SocketTable, host: str, listen_at: str | None) -> None:
    with connected(host, listen_at=listen_at) as (client, server):
        theirs, ours = client.getpeername(), client.getsockname()
        found = table.connection(theirs, ours)
        assert found is not None
        assert (found.inode, found.state) == (inode(server), ESTABLISHED)
        found = table.connection(ours, theirs)
        assert found is not None
        assert found.inode == inode(client)
        # The addresses as an IPv6 server sees them mean the same.
        if listen_at:
            found = table.connection(server.getsockname(), server.getpeername())
            assert found is not None
            assert found.inode == inode(server)
        # A listener that would accept such a connection is not that connection.
        assert table.connection(theirs, (host, 1)) is None


def test_all_states_of_a_port_are_seen(table: SocketTable) -> None:
    with connected("127.0.0.1") as (client, server):
        ends = client.getpeername(), client.getsockname()
        assert states_here(table, *ends) == [ESTABLISHED, LISTEN]
        server.close()
        client.close()
    assert states_here(table, *ends) == [TIME_WAIT]
    assert table.connection(*ends) is None


def states_here(table: SocketTable, local: tuple[str, int], remote: tuple[str, int]) -> list[int]:
    """The states of what is at one end; the kernel gives ports again on which older connections have remnants."""
    others = (0, remote[1])
    return sorted(found.state for found in table.sockets_on(local[1]) if found.remote_port in others)


@pytest.mark.skipif(KERNEL < (6, 8), reason="older kernels do not show bound sockets that do not listen")
def test_a_placeholder_is_seen_through_netlink() -> None:
    placeholder = hold_port(0)
    assert placeholder is not None
    with SocketTable() as table, placeholder:
        (found,) = table.sockets_on(placeholder.getsockname()[1])
        assert found.inode == inode(placeholder)


def test_sockets_of_other_ports_are_not_taken_for_those_of_this_one(table: SocketTable, free_port: int) -> None:
    placeholder = hold_port(0)
    assert placeholder is not None
    with placeholder, socket.create_server(("127.0.0.1", 0)):
        assert table.sockets_on(free_port) == table.listeners_on(free_port) == []


def test_proc_and_netlink_give_the_same_answers() -> None:
    with (
        connected("127.0.0.1", listen_at="::") as (_, mapped),
        connected("::1") as (client, _),
        SocketTable() as netlink,
        SocketTable(netlink=False) as proc,
    ):
        for port in (mapped.getsockname()[1], client.getpeername()[1], client.getsockname()[1]):
            assert without_remnants(netlink.sockets_on(port)) == without_remnants(proc.sockets_on(port))
            assert netlink.listeners_on(port) == proc.listeners_on(port)
        ends = mapped.getsockname(), mapped.getpeername()
        assert netlink.connection(*ends) == proc.connection(*ends)


def without_remnants(sockets: list[Socket]) -> set[Socket]:
    """Those that live: a client may get a port on which remnants of an older connection are, and they end anytime."""
    return {one for one in sockets if one.state != TIME_WAIT}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows no other machine")
def test_where_netlink_is_refused_proc_answers(free_port: int, start_child: StartChild) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _, line = start_child("lacks_a_family.py", int(socket.AF_NETLINK), errno.EPERM, free_port, port)
        assert line == f"{int(socket.AF_INET6)} False {port}"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows no other machine")
@pytest.mark.parametrize("reuse", [0, 1])
def test_where_the_kernel_does_not_show_a_bound_socket_its_port_is_taken(
    free_port: int, start_child: StartChild, reuse: int
) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        bound.bind(("127.0.0.1", free_port))
        _, line = start_child("lacks_a_family.py", int(socket.AF_NETLINK), errno.EPERM, free_port, 1)
        assert line == "taken False"


def test_a_table_that_lost_its_descriptor_goes_on_with_proc() -> None:
    with SocketTable() as table, connected("127.0.0.1") as (client, server):
        assert table._netlink is not None
        table._netlink._socket.close()
        assert {found.inode for found in without_remnants(table.sockets_on(client.getsockname()[1]))} == {inode(client)}
        found = table.connection(client.getpeername(), client.getsockname())
        assert found is not None
        assert found.inode == inode(server)


# ---- answers that no kernel gives on request: the other end of a socket pair plays it

MULTI, INTERRUPTED = 0x2, 0x10


def message(sequence: int, *, port: int = 0, kind: int = 20, flags: int = MULTI, payload: bytes | None = None) -> bytes:
    if payload is None:
        payload = struct.pack("=BBxxHH16s16sI8x12xII", socket.AF_INET, LISTEN, socket.htons(port), 0, b"", b"", 0, 0, 0)
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def done(sequence: int, code: int = 0, *, kind: int = 3) -> bytes:
    return message(sequence, kind=kind, payload=struct.pack("=i", -code))


@contextmanager
def kernel_says(*answers: bytes) -> Iterator[SocketTable]:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, SocketTable() as table:
        assert table._netlink is not None
        table._netlink._socket.close()
        table._netlink._socket = ours
        for answer in answers:
            kernel.send(answer)
        yield table


def test_an_interrupted_dump_is_repeated() -> None:
    interrupted = message(1, port=1, flags=MULTI | INTERRUPTED) + done(1)
    with kernel_says(interrupted, message(2, port=2) + done(2), message(3, port=3) + done(3)) as table:
        assert table.listening_ports() == {2, 3}


def test_a_table_that_never_rests_gives_its_last_answer() -> None:
    restless = [message(n, port=n, flags=MULTI | INTERRUPTED) + done(n) for n in range(1, 11)]
    with kernel_says(*restless) as table:
        assert table.listening_ports() == {5, 10}


def test_what_is_left_of_an_earlier_answer_is_not_taken_for_this_one() -> None:
    with kernel_says(message(7, port=7) + done(7), message(1, port=1), done(1), done(2)) as table:
        assert table.listening_ports() == {1}


@pytest.mark.parametrize(
    "answers",
    [
        (done(1, errno.ENOENT),),
        (done(1, errno.EPERM, kind=2),),
        (message(1)[:50], done(1)),
        (struct.pack("=IHHII", 3, 20, MULTI, 1, 0), done(1)),
        (message(1, payload=b"tooshort") + done(1),),
        (b"garbage", done(1)),
        (),
    ],
    ids=["end with an error", "error", "cut off", "length below the header", "short payload", "garbage", "none"],
)
def test_an_answer_that_makes_no_sense_sends_us_to_proc(answers: tuple[bytes, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, kernel_says(*answers, done(2)) as table:
        assert listener.getsockname()[1] in table.listening_ports()
        assert table._netlink is None


# ---- who holds what


def test_the_sockets_of_a_process_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert inode(listener) in (socket_inodes(os.getpid()) or ())
        closed = inode(listener)
    assert closed not in (socket_inodes(os.getpid()) or ())


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert socket_inodes(process.pid) == set()  # a zombie
    assert socket_inodes(process.pid) == set()


def test_a_zombie_of_another_user_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with without_privileges():
            assert socket_inodes(process.pid) == set()


def test_a_table_that_cannot_be_read_is_told_apart(start_child: StartChild, free_port: int) -> None:
    pid, _ = start_child("listens.py", "127.0.0.1", free_port, "undumpable")
    with without_privileges():
        assert socket_inodes(pid) is None
