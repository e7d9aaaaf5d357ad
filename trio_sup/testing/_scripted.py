"""Specifications of real processes that behave as badly as they are told to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from .._values import BackendSpec


def scripted_backend(
    *,
    name: str = "scripted",
    delay: float = 0.0,
    loading: float = 0.0,
    die_after: float | None = None,
    code: int = 0,
    ignore_sigterm: bool = False,
    slow_stop: float = 0.0,
    health: str = "OK",
    hang_health: bool = False,
    free_hangs: bool = False,
    free_fails: bool = False,
    load_takes: float = 0.0,
    load_hangs: bool = False,
    load_fails: bool = False,
    flood: int = 0,
    fork: Iterable[str] = (),
    http: int | None = None,
    garbage: bool = False,
    mute: bool = False,
    never_listens: bool = False,
    **fields: Any,
) -> BackendSpec:
    """Specify a real process that does as told; without options it is a well-behaved gRPC backend.

    Args:
        name: Name of the backend.
        delay: Seconds until it listens.
        loading: Seconds for which Health fails, counted from when it starts to serve.
        die_after: Seconds until it ends by itself, with *code*.
        code: Its exit code, also after a polite stop.
        ignore_sigterm: It never hears SIGTERM.
        slow_stop: Seconds from SIGTERM until it has ended.
        health: What Health answers; with *http*, the body.
        hang_health, free_hangs, load_hangs: The call (Health, Free, LoadModel) is answered only when it has been told
            to stop.
        free_fails: Free fails.
        load_takes: Seconds for which LoadModel computes; meanwhile nothing else is answered.
        load_fails: LoadModel answers that there is no such model.
        flood: Bytes that it writes to stderr each second.
        fork: Children that it leaves running: ``"plain"``, ``"group"`` (in a process group of their own) or
            ``"setsid"`` (in a session of their own). It prints ``children`` and their pids.
        http: It serves HTTP/1 instead of gRPC, and answers with this status.
        garbage, mute: It answers every connection with garbage, or never.
        never_listens: It does not listen.
        fields: Fields of [`BackendSpec`][trio_sup.BackendSpec], such as ``grace`` or ``readiness``.

    Raises:
        InvalidValue: A field makes no sense; the message names it.
    """
    values: dict[str, object] = {
        "--delay": delay, "--loading": loading, "--slow-stop": slow_stop, "--code": code, "--flood": flood,
        "--load-takes": load_takes, "--die-after": die_after, "--http": http, "--fork": ",".join(fork) or None,
    }  # fmt: skip
    flags = {
        "--ignore-sigterm": ignore_sigterm, "--hang-health": hang_health, "--free-hangs": free_hangs,
        "--free-fails": free_fails, "--load-hangs": load_hangs, "--load-fails": load_fails,
        "--garbage": garbage, "--mute": mute, "--never-listens": never_listens,
    }  # fmt: skip
    command = [sys.executable, "-m", "trio_sup.testing.backend", f"--health={health}"]
    # Zero is what every number means when it is not given, but a status of 0 or a death at once were asked for.
    command += [
        f"{option}={value}"
        for option, value in values.items()
        if value is not None and (value != 0 or option in ("--die-after", "--http"))
    ]
    command += [option for option, given in flags.items() if given]
    return BackendSpec(name=name, command=command, **fields)
