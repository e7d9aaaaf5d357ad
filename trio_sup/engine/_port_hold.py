"""Holding a port for a backend: a bound socket that never listens."""

from __future__ import annotations

import errno
import os
import socket

from ._sockets import CLOSE, LISTEN, SocketTable


def hold_port(port: int) -> socket.socket | None:
    """Take *port* on all addresses, IPv4 and IPv6, or tell that somebody has it.

    The socket is a placeholder: it never listens. While it is open the kernel gives the port to no client and to no
    other holder, but a server that sets SO_REUSEADDR or SO_REUSEPORT can bind and listen beside it. It is not
    inherited by children.

    Args:
        port: 0 lets the kernel choose.

    Returns:
        The placeholder, or None if the port is taken. What a crashed server left in TIME_WAIT or on its way there
        does not count. (Before Linux 6.8 another holder is not seen beside such remnants.)

    Raises:
        OSError: Anything else, such as EMFILE, or EACCES for a port below 1024.
    """
    # Bound exclusively: a second holder is refused. SO_REUSE* come only after it, so that test and hold are one step.
    placeholder = _bind(port, reuse=False)
    if placeholder is None and port:
        placeholder = _bind_beside_remnants(port)
    if placeholder is not None:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return placeholder


def _bind_beside_remnants(port: int) -> socket.socket | None:
    # TIME_WAIT refuses an exclusive bind. SO_REUSEADDR gets past it, but also past placeholders like ours; so what
    # is really there is looked at afterwards, when two holders that try this at once must see each other.
    placeholder = _bind(port, reuse=True)
    if placeholder is None:
        return None
    try:
        own = os.fstat(placeholder.fileno()).st_ino
        with SocketTable() as table:
            others = [other for other in table.sockets_on(port) if other.inode != own]
    except BaseException:
        placeholder.close()
        raise
    # Nothing to see means a bound socket that this kernel does not show.
    if not others or any(other.state in (LISTEN, CLOSE) for other in others):
        placeholder.close()
        return None
    return placeholder


def _bind(port: int, *, reuse: bool) -> socket.socket | None:
    for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            placeholder = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                continue
            raise
        try:
            if family == socket.AF_INET6:
                placeholder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            placeholder.bind((host, port))
        except OSError as error:
            placeholder.close()
            if error.errno == errno.EADDRINUSE:
                return None
            if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
                continue
            raise
        return placeholder
    raise AssertionError("unreachable: the last family either returns or raises")
