"""The probe that asks a command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable

import attrs
import trio

from ..errors import InvalidValue
from ..strategies import ProbeTarget, complaints_name_fields
from ._check_failed import CheckFailed

OUTPUT_BYTES = 4096
"""How much of the end of its output is kept for the message."""

REAP_TIMEOUT = 1.0
"""Seconds to wait for a killed command; one stuck in the kernel must not hang the engine."""


def _to_command(value: object) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValue(value, "a command is a list: the program and its arguments")
    command = tuple(value)
    if not command or not all(isinstance(part, str) and "\0" not in part for part in command) or not command[0]:
        raise InvalidValue(value, "a command is a non-empty list of texts without NUL characters")
    return command


@attrs.frozen(field_transformer=complaints_name_fields)
class ExecProbe:
    """Ready when a command exits with 0. It runs with the environment and in the directory of the backend.

    Args:
        command: Program and arguments; ``{host}``, ``{port}`` and ``{address}`` are filled in. What it writes is shown
            if it fails. Processes it leaves behind in its process group are killed.
    """

    command: tuple[str, ...] = attrs.field(converter=_to_command)
    needs_listener = False
    speaks_grpc = False

    async def check(self, target: ProbeTarget) -> None:
        values = {"{host}": target.host, "{port}": str(target.port), "{address}": target.address}
        command = [_filled(part, values) for part in self.command]
        output = bytearray()
        with trio.move_on_after(target.call_timeout):
            code = await _run(command, target, output)
            if code == 0:
                return
            how = f"exited with {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
            raise CheckFailed(f"{command[0]} {how}{_shown(output, target)}")
        raise CheckFailed(f"{command[0]} took longer than {target.call_timeout:g} s{_shown(output, target)}")


def _filled(part: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        part = part.replace(placeholder, value)
    return part


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shown(output: bytearray, target: ProbeTarget) -> str:
    text = output.decode(errors="replace").strip()
    if target.spec.token:
        text = text.replace(target.spec.token, "(hidden)")
    return f": {text}" if text else " and wrote nothing"


async def _run(command: list[str], target: ProbeTarget, output: bytearray) -> int:
    """Run *command* and tell its exit code; whatever ends this, its process group is gone afterwards."""
    reading_end, writing_end = os.pipe()
    async with trio.lowlevel.FdStream(reading_end) as stream:
        try:
            # On Trio's own thread (under a millisecond), and nothing is awaited before the `try` below: no cancel can
            # lose the process.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=writing_end,
                stderr=writing_end,
                env=dict(target.environment),
                cwd=target.spec.cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckFailed(f"cannot run {command[0]!r}: {error}") from error
        finally:
            os.close(writing_end)
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            _kill_group(process)
            raise
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_end, stream, output)
                await trio.lowlevel.wait_readable(pidfd)
                nursery.cancel_scope.cancel()
        finally:
            # The leader is not reaped yet, so its number still names this group and no other.
            _kill_group(process)
            with trio.move_on_after(REAP_TIMEOUT, shield=True):
                await trio.lowlevel.wait_readable(pidfd)
            trio.lowlevel.notify_closing(pidfd)
            os.close(pidfd)
            process.poll()
        _read_rest(stream, output)
        # Not known only if it is stuck in the kernel, and then we were cancelled.
        return process.returncode if process.returncode is not None else -signal.SIGKILL


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@trio.lowlevel.enable_ki_protection
async def _keep_end(stream: trio.lowlevel.FdStream, output: bytearray) -> None:
    while chunk := await stream.receive_some(65536):
        _keep(output, chunk)


def _read_rest(stream: trio.lowlevel.FdStream, output: bytearray) -> None:
    """Take what is in the pipe, once and without waiting: a process that left the group may keep it open and full."""
    with contextlib.suppress(BlockingIOError):
        _keep(output, os.read(stream.fileno(), 65536))


def _keep(output: bytearray, chunk: bytes) -> None:
    output += chunk
    del output[:-OUTPUT_BYTES]
