"""From a resolved command to what is executed: the launch preparations of plugins, one after the other."""

from __future__ import annotations

import os

from ..errors import LaunchFailed
from ..strategies import Launch
from ._plugin_calls import PluginCalls
from ._slot import Attempt


def prepared(attempt: Attempt, port: int, calls: PluginCalls) -> Launch:
    """What is to be executed for *attempt*, after all its launch preparations.

    Raises:
        LaunchFailed: One of them failed; a launch that was not prepared as asked for must not happen.
    """
    command = attempt.command
    assert command is not None
    launch = Launch(
        key=attempt.key,
        spec=attempt.spec,
        executable=command.executable,
        arguments=command.arguments(port),
        environment=command.environment,
        cwd=command.cwd,
        port=port,
    )
    for name, preparation in attempt.strategies.preparations:
        try:
            launch = calls.call(name, "prepare()", preparation.prepare, launch)
            _check(launch)
        except Exception as error:
            why = f"the launch preparation {name!r} failed: {str(error) or repr(error)}"
            raise LaunchFailed(attempt.key, attempt.generation, why=why) from error
    return launch


def _check(launch: object) -> None:
    """Raise if the system could not execute *launch*; values of variables may be secret, and are not told."""
    if not isinstance(launch, Launch):
        raise TypeError(f"prepare() returned {launch!r}")
    if isinstance(launch.arguments, (str, bytes)) or not launch.arguments:
        raise TypeError("prepare() returned no list of arguments, with the name of the program in front")
    pieces = [("the executable", launch.executable)]
    pieces += [(f"arguments[{index}]", argument) for index, argument in enumerate(launch.arguments)]
    for name, value in launch.environment.items():
        pieces += [(f"the name of the variable {name!r}", name), (f"the variable {name!r}", value)]
        if not name or "=" in name:
            raise ValueError(f"prepare() returned a variable that cannot be called {name!r}")
    for what, piece in pieces:
        try:
            encoded = os.fsencode(piece)
        except (TypeError, ValueError) as error:
            raise TypeError(f"prepare() returned what cannot be executed: {what}: {error}") from error
        if b"\0" in encoded:
            raise ValueError(f"prepare() returned what cannot be executed: {what}: there is a null byte in it")
