"""From a resolved command to what is executed: the launch preparations of plugins, one after the other."""

from __future__ import annotations

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
            if not isinstance(launch, Launch):
                raise TypeError(f"prepare() returned {launch!r}")
        except Exception as error:
            why = f"the launch preparation {name!r} failed: {str(error) or repr(error)}"
            raise LaunchFailed(attempt.key, attempt.generation, why=why) from error
    return launch
