from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trio_sup.engine._port_hold import hold_port
from trio_sup.engine._sockets import TIME_WAIT, SocketTable

from .conftest import StartChild, without_privileges

IP_LOCAL_PORT_RANGE = 51
KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))


@contextmanager
def held(port: int) -> Iterator[socket.socket]:
    placeholder = hold_port(port)
    assert placeholder is not None, f"port {port} is taken"
    with placeholder:
        yield placeholder


def test_a_held_port_is_held_once(free_port: int) -> None:
    with held(free_port):
        assert hold_port(free_port) is None


def test_a_port_held_by_another_process_is_taken(free_port: int, start_child: StartChild) -> None:
    assert start_child("holds.py", free_port)[1] == "held"
    assert hold_port(free_port) is None


def test_a_closed_placeholder_frees_its_port(free_port: int) -> None:
    with held(free_port):
        pass
    with held(free_port):
        pass


def test_the_kernel_chooses_for_port_0() -> None:
    with held(0) as one, held(0) as other:
        assert 0 != one.getsockname()[1] != other.getsockname()[1] != 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("options", [(), ("reuseaddr",), ("reuseport",), ("reuseaddr", "reuseport")])
def test_a_listener_on_any_address_makes_the_port_taken(
    free_port: int, start_child: StartChild, host: str, options: tuple[str, ...]
) -> None:
    assert start_child("listens.py", host, free_port, *options)[1] == "listening"
    assert hold_port(free_port) is None


@pytest.mark.parametrize("reuse", [0, 1])
def test_a_bound_socket_that_does_not_listen_makes_the_port_taken(free_port: int, reuse: int) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        bound.bind(("127.0.0.1", free_port))
        assert hold_port(free_port) is None


@pytest.mark.parametrize("options", [("reuseaddr",), ("reuseport",), ("reuseaddr", "reuseport")])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_a_server_binds_beside_the_placeholder(
    free_port: int, start_child: StartChild, host: str, options: tuple[str, ...]
) -> None:
    with held(free_port):
        assert start_child("listens.py", host, free_port, *options)[1] == "listening"
        # All connections reach the server: the placeholder never listens.
        for _ in range(8):
            socket.create_connection(("::1" if ":" in host else "127.0.0.1", free_port), timeout=10).close()


def test_a_server_that_binds_exclusively_is_refused(free_port: int, start_child: StartChild) -> None:
    with held(free_port):
        assert start_child("listens.py", "127.0.0.1", free_port)[1] == os.strerror(errno.EADDRINUSE)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::]"])
def test_a_grpc_core_server_serves_beside_the_placeholder(free_port: int, start_child: StartChild, host: str) -> None:
    with held(free_port):
        assert start_child("serves_grpc.py", f"{host}:{free_port}")[1] == "listening"
        with grpc.insecure_channel(f"127.0.0.1:{free_port}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@contextmanager
def remnants(port: int, start_child: StartChild, *, client_closes: bool) -> Iterator[None]:
    """What a server leaves that was killed while a client was connected."""
    pid, _ = start_child("listens.py", "127.0.0.1", port, "reuseaddr", "accept")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        assert client.recv(100) == b"accepted"
        os.kill(pid, signal.SIGKILL)
        assert client.recv(100) == b""  # the kernel has closed the server's end
        if client_closes:
            client.close()
        yield


@pytest.mark.parametrize("client_closes", [True, False])
def test_the_remnants_of_a_crashed_server_do_not_make_the_port_taken(
    free_port: int, start_child: StartChild, client_closes: bool
) -> None:
    with remnants(free_port, start_child, client_closes=client_closes):
        with SocketTable() as table:
            states = [found.state for found in table.sockets_on(free_port)]
        assert states
        assert not client_closes or states == [TIME_WAIT]
        with held(free_port):
            assert start_child("listens.py", "127.0.0.1", free_port, "reuseaddr")[1] == "listening"


@pytest.mark.skipif(KERNEL < (6, 8), reason="older kernels do not show bound sockets that do not listen")
def test_a_holder_beside_remnants_is_seen(free_port: int, start_child: StartChild) -> None:
    with remnants(free_port, start_child, client_closes=True), held(free_port):
        assert hold_port(free_port) is None


def test_a_held_port_is_never_given_to_a_client() -> None:
    def connect() -> int:
        with socket.socket() as client:
            try:
                client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
            except OSError:
                pytest.skip("this kernel cannot narrow the range of one client")
            client.connect(server.getsockname())
            return int(client.getsockname()[1])

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        with held(0) as placeholder:  # clients get ports of the kernel's own range only
            port = placeholder.getsockname()[1]
            with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
                connect()
        assert connect() == port


def test_children_do_not_inherit_the_placeholder(free_port: int) -> None:
    with held(free_port):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
    with child:
        assert child.stdout is not None
        # Only now is the child surely past exec: the kernel closes its copies shortly after `Popen` returns.
        child.stdout.readline()
        with held(free_port):
            child.communicate(b"\n", timeout=60)


def test_too_few_descriptors_are_not_a_taken_port(free_port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            hold_port(free_port)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_we_may_not_bind_is_not_a_taken_port() -> None:
    with without_privileges(), pytest.raises(PermissionError):
        hold_port(1)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows no other machine")
def test_without_ipv6_the_port_is_held_for_ipv4(free_port: int, start_child: StartChild) -> None:
    _, line = start_child("lacks_a_family.py", int(socket.AF_INET6), errno.EAFNOSUPPORT, free_port, 1)
    assert line == f"{int(socket.AF_INET)} True"
    assert hold_port(free_port) is None
