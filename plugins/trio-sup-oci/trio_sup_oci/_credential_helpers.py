"""Helper programs that keep credentials: ``docker-credential-NAME get``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess

import trio

from ._errors import UnusableCredentials

PATIENCE = 30.0
"""Seconds until a helper program must have answered; one that asks its user something is of no use here."""
LARGEST_ANSWER = 64 * 2**10
REAP_TIMEOUT = 5.0


async def ask_helper(name: str, server: str, *, patience: float = PATIENCE) -> tuple[str, str] | None:
    """Ask ``docker-credential-`` *name* for user name and secret of *server*; None if it has none.

    Args:
        patience: Seconds that it may take.

    Raises:
        UnusableCredentials: It cannot be run, takes too long, or answers nonsense.

    Cancellation: the program is killed, with those that it started in its group.
    """
    program = f"docker-credential-{name}"
    with trio.move_on_after(patience) as patience_scope:
        try:
            status, answer = await _run([program, "get"], server.encode())
        except OSError as error:
            raise UnusableCredentials(program, f"it cannot be run: {error.strerror or error}") from error
    if patience_scope.cancelled_caught:
        raise UnusableCredentials(program, f"it did not answer within {patience:g} s")
    if len(answer) > LARGEST_ANSWER:
        raise UnusableCredentials(program, f"its answer is longer than {LARGEST_ANSWER} bytes")
    if status != 0:
        # Source: what the helpers of the Docker project print; nothing else of the answer is repeated.
        if b"credentials not found" in answer:
            return None
        raise UnusableCredentials(program, f"it ended with status {status}")
    return _parse(answer, program)


def _parse(answer: bytes, program: str) -> tuple[str, str] | None:
    try:
        table = json.loads(answer)
    except (ValueError, RecursionError):
        raise UnusableCredentials(program, "its answer is no JSON") from None
    username, secret = (table.get("Username"), table.get("Secret")) if isinstance(table, dict) else (None, None)
    if not isinstance(username, str) or not isinstance(secret, str):
        raise UnusableCredentials(program, "its answer has no Username and Secret")
    return (username, secret) if username or secret else None


async def _run(command: list[str], given: bytes) -> tuple[int, bytes]:
    """Run *command*, and return its status and what it said: at most one byte more than is allowed."""
    answer = bytearray()
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None
    assert isinstance(process.stdout, trio.lowlevel.FdStream)
    async with process.stdin as stdin, process.stdout as stdout:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, stdin, given)
                nursery.start_soon(_collect, stdout, answer, nursery.cancel_scope)
                await process.wait()
                # Whatever the helper left running may hold the pipe open for ever: its own end is what counts.
                nursery.cancel_scope.cancel()
        finally:
            await _end(process)
        with contextlib.suppress(OSError):
            while len(answer) <= LARGEST_ANSWER and (rest := os.read(stdout.fileno(), LARGEST_ANSWER + 1)):
                answer += rest
    return process.returncode or 0, bytes(answer)


async def _feed(stdin: trio.abc.SendStream, given: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stdin.send_all(given)
    await stdin.aclose()


async def _collect(stdout: trio.abc.ReceiveStream, answer: bytearray, nursery_scope: trio.CancelScope) -> None:
    async for chunk in stdout:
        answer += chunk
        if len(answer) > LARGEST_ANSWER:
            nursery_scope.cancel()
            return


async def _end(process: trio.Process) -> None:
    # Not reaped yet, so the number of the group is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with trio.move_on_after(REAP_TIMEOUT, shield=True):
        await process.wait()
