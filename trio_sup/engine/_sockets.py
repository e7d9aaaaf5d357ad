"""The kernel's tables of TCP sockets, and which process holds which socket.

Asked through netlink (`sock_diag`); where that is refused (seccomp, a kernel without it), read from /proc.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs

ESTABLISHED: Final = 1
TIME_WAIT: Final = 6
CLOSE: Final = 7
"""A socket that is bound and neither listens nor is connected."""
LISTEN: Final = 10

_ALL_STATES: Final = (1 << 12) - 1
# Since Linux 6.8 a dump shows bound sockets that do not listen (as CLOSE); older kernels ignore the bit.
_BOUND_INACTIVE: Final = 1 << 13

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_MULTI, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x2, 0x10, 0x300
_TRIES: Final = 5

_HEADER = struct.Struct("=IHHII")  # length, kind, flags, sequence, port id
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIQ")  # family, protocol, extensions, states, then the socket's id
_ANSWER = struct.Struct("=BBxxHH16s16sI8x12xII")  # family, state, ports, addresses, interface, uid, inode
_ANSWER_BYTES: Final = _ANSWER.size
_CODE = struct.Struct("=i")
_NO_COOKIE: Final = (1 << 64) - 1

Address = tuple[Any, ...]
"""What `socket.getsockname()` returns: host and port, and for IPv6 flow and scope."""


@attrs.frozen
class Socket:
    """One TCP socket as the kernel lists it. A connection to an IPv4 address may be an IPv6 socket (``::ffff:…``).

    Attributes:
        state: As in the kernel: `ESTABLISHED`, `TIME_WAIT`, `CLOSE`, `LISTEN`, …
        inode: 0 if no process holds it any more, or none has accepted it yet.
        uid: User who made it.
    """

    family: int
    address: str
    port: int
    remote_address: str
    remote_port: int
    state: int
    inode: int
    uid: int


class _Netlink:
    """Questions to sock_diag, one at a time; raises OSError if they are refused."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer = bytearray(buffer_bytes)
        self._sequence = 0
        self._socket = self._open()

    def _open(self) -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)

    def close(self) -> None:
        self._socket.close()

    def dump(self, family: int, states: int, port: int) -> list[bytes]:
        """All sockets of *family* in *states* (bits), on local *port* unless that is 0."""
        request = _REQUEST.pack(
            family, socket.IPPROTO_TCP, 0, states, port.to_bytes(2, "big"), b"", b"", b"", 0, _NO_COOKIE
        )
        return self._ask(request, _NLM_F_DUMP)

    def find(self, local: Address, remote: Address) -> bytes | None:
        """The socket of exactly this connection; if there is none, a listener that would accept it."""
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        request = _REQUEST.pack(
            family, socket.IPPROTO_TCP, 0, _ALL_STATES, local[1].to_bytes(2, "big"), remote[1].to_bytes(2, "big"),
            socket.inet_pton(family, local[0]), socket.inet_pton(family, remote[0]),
            local[3] if len(local) > 3 else 0, _NO_COOKIE,
        )  # fmt: skip
        try:
            return next(iter(self._ask(request, 0)), None)
        except FileNotFoundError:
            return None

    def _ask(self, request: bytes, flags: int) -> list[bytes]:
        answers: list[bytes] = []
        for _ in range(_TRIES):
            try:
                answers, whole = self._exchange(request, flags)
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE, errno.EBUSY):
                    raise
                # The rest of a broken answer would be taken for the beginning of the next one.
                self._socket.close()
                self._socket = self._open()
            else:
                if whole:
                    return answers
        # The table changed under every dump: the last one is as good as the next would be.
        return answers

    def _exchange(self, request: bytes, flags: int) -> tuple[list[bytes], bool]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = _HEADER.pack(
            _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, self._sequence, 0
        )
        self._socket.send(header + request)
        answers: list[bytes] = []
        whole = True
        buffer, sequence, unpack_header = self._buffer, self._sequence, _HEADER.unpack_from  # the loop below is hot
        while True:
            # The kernel answers while it takes the question, so there is never anything to wait for.
            size = self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT | socket.MSG_TRUNC)
            if size > len(buffer):
                self._buffer = bytearray(size)
                raise OSError(errno.EMSGSIZE, "netlink answer longer than the buffer")
            at = 0
            while at < size:
                length, kind, flags, its_sequence, _ = unpack_header(buffer, at)
                start, end = at + 16, at + length
                if not start <= end <= size:
                    raise OSError(errno.EPROTO, "malformed netlink answer")
                at += (length + 3) & ~3
                if its_sequence != sequence:
                    continue
                if flags & _NLM_F_DUMP_INTR:
                    whole = False
                if kind == _SOCK_DIAG_BY_FAMILY:
                    if end - start < _ANSWER_BYTES:
                        raise OSError(errno.EPROTO, "netlink answer shorter than this program knows")
                    answers.append(bytes(buffer[start : start + _ANSWER_BYTES]))
                    if not flags & _NLM_F_MULTI:
                        return answers, whole
                elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -_CODE.unpack_from(buffer, start)[0] if end - start >= _CODE.size else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers, whole


def _read(answer: bytes) -> Socket:
    family, state, port, remote_port, address, remote_address, _, uid, inode = _ANSWER.unpack(answer)
    size = 4 if family == socket.AF_INET else 16
    return Socket(
        family, socket.inet_ntop(family, address[:size]), socket.ntohs(port),
        socket.inet_ntop(family, remote_address[:size]), socket.ntohs(remote_port), state, inode, uid,
    )  # fmt: skip


class SocketTable:
    """The TCP sockets of this network namespace, as they are now.

    Every question is answered at once and blocks for well under a millisecond on an ordinary machine.
    Any of them raises OSError if neither netlink nor /proc tells.

    Args:
        netlink: False reads /proc only.
        buffer_bytes: Room for one netlink answer; grows by itself.
    """

    def __init__(self, *, netlink: bool = True, buffer_bytes: int = 65536) -> None:
        self._netlink: _Netlink | None = None
        if netlink:
            with contextlib.suppress(OSError):
                self._netlink = _Netlink(buffer_bytes)

    def __enter__(self) -> SocketTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. Questions asked later are answered from /proc."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def listeners(self) -> list[Socket]:
        """Every listening socket, IPv4 and IPv6."""
        return self._sockets(1 << LISTEN)

    def listeners_on(self, port: int) -> list[Socket]:
        """Every socket that listens on *port*, whatever its address."""
        return self._sockets(1 << LISTEN, port)

    def listening_ports(self) -> set[int]:
        """The ports on which anything listens; cheaper than `listeners`."""
        answers = self._dump(1 << LISTEN, 0)
        if answers is None:
            return {found.port for found in _proc_sockets() if found.state == LISTEN}
        return {int.from_bytes(answer[4:6], "big") for answer in answers}

    def sockets_on(self, port: int) -> list[Socket]:
        """Every socket whose local port is *port*, in whatever state, remnants in TIME_WAIT included.

        Sockets that are bound but neither listen nor are connected are seen only by netlink and since Linux 6.8.
        """
        return self._sockets(_ALL_STATES | _BOUND_INACTIVE, port)

    def connection(self, local: Address, remote: Address) -> Socket | None:
        """The socket of the connection from *local* to *remote*, as seen from its own side; None if there is none.

        IPv4 addresses find an IPv6 socket that serves them as well. A remnant in TIME_WAIT counts as none.
        """
        local = (_plain(local[0]), *local[1:])
        remote = (_plain(remote[0]), *remote[1:])
        ends = (local[:2], remote[:2])
        found: Iterator[Socket] | list[Socket]
        if self._netlink is not None:
            try:
                answer = self._netlink.find(local, remote)
                found = [_read(answer)] if answer is not None else []
            except OSError:
                self.close()
        if self._netlink is None:
            found = _proc_sockets()
        for one in found:
            its_ends = ((_plain(one.address), one.port), (_plain(one.remote_address), one.remote_port))
            if its_ends == ends and one.state not in (LISTEN, TIME_WAIT):
                return one
        return None

    def _sockets(self, states: int, port: int = 0) -> list[Socket]:
        answers = self._dump(states, port)
        found = map(_read, answers) if answers is not None else _proc_sockets()
        # The kernel forgets the port when it lists bound sockets that do not listen, and /proc knows no question.
        return [one for one in found if states & 1 << one.state and port in (0, one.port)]

    def _dump(self, states: int, port: int) -> list[bytes] | None:
        if self._netlink is None:
            return None
        try:
            return [
                answer
                for family in (socket.AF_INET, socket.AF_INET6)
                for answer in self._netlink.dump(family, states, port)
            ]
        except OSError:
            # Refused once is refused for good: ask /proc from now on.
            self.close()
            return None


def _plain(host: str) -> str:
    host = host.partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host


def _proc_sockets() -> Iterator[Socket]:
    yield from _proc_table(Path("/proc/net/tcp"), socket.AF_INET)
    try:
        yield from _proc_table(Path("/proc/net/tcp6"), socket.AF_INET6)
    except FileNotFoundError:
        return  # IPv6 is off


def _proc_table(path: Path, family: int) -> Iterator[Socket]:
    for line in path.read_text("ascii").splitlines()[1:]:
        _, local, remote, state, _, _, _, uid, _, inode, *_ = line.split()
        yield Socket(
            family, *_proc_end(local, family), *_proc_end(remote, family), int(state, 16), int(inode), int(uid)
        )


def _proc_end(text: str, family: int) -> tuple[str, int]:
    address, port = text.split(":")
    # Each word of the address is printed as a number of this machine's byte order.
    words = [struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8)]
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)


def socket_inodes(pid: int) -> set[int] | None:
    """Inodes of the sockets that process *pid* holds; empty if it has ended, None if that cannot be read."""
    directory = f"/proc/{pid}/fd"
    inodes = set()
    try:
        for name in os.listdir(directory):
            try:
                target = os.readlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    except OSError:
        return set() if _has_ended(pid) else None
    return inodes


def _has_ended(pid: int) -> bool:
    try:
        # A zombie holds nothing, yet its table may be read by root only.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        pass
    try:
        # Absent from /proc is not gone: a `hidepid` mount hides other users' processes.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
