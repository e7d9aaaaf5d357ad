"""With a seccomp filter that refuses sockets of FAMILY with ERRNO, holds PORT and tells who listens on LISTENING.

Prints: family of the placeholder (or "taken"), whether netlink is in use, the ports of the listeners found.
"""

import ctypes
import platform
import struct
import sys

from trio_sup.engine._port_hold import hold_port
from trio_sup.engine._sockets import SocketTable

family, errno, port, listening = map(int, sys.argv[1:])
SYS_SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno
program = [
    (LOAD, 0, 0, 0),  # the system call's number
    (JUMP_IF_EQUAL, 0, 3, SYS_SOCKET),
    (LOAD, 0, 0, 16),  # its first argument
    (JUMP_IF_EQUAL, 0, 1, family),
    (RETURN, 0, 0, REFUSE),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, filter_, 0, 0) == 0  # seccomp, filter

placeholder = hold_port(port)
table = SocketTable()
print(
    int(placeholder.family) if placeholder is not None else "taken",
    table._netlink is not None,
    *(found.port for found in table.listeners_on(listening)),
    flush=True,
)
sys.stdin.read()
