"""Subcommands of `trio-sup` that plugins give."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Collection, Mapping

from cyclopts import App

from ..engine._loading import PluginProblem
from ..engine._plugins import PluginError, Plugins
from ..engine._raised import in_words
from ._chosen_plugins import problem_with

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Command = Callable[..., object]


def usable_commands(plugins: Plugins, taken: Collection[str]) -> tuple[Mapping[str, Command], list[PluginProblem]]:
    """The commands that can be offered, and what is wrong with the others.

    Args:
        taken: The names of trio-sup's own commands, which no plugin can replace.
    """
    usable: dict[str, Command] = {}
    problems = []
    for name, command in plugins.commands.items():
        if why := _flaw(name, command, taken):
            problems.append(problem_with(plugins, plugins.command_from(name), f"its command {name!r} {why}"))
        else:
            usable[name] = command
    return usable, problems


def _flaw(name: str, command: Command, taken: Collection[str]) -> str:
    if name in taken:
        return "is left out: trio-sup has one of that name"
    if not _NAME.fullmatch(name):
        return "is left out: a name has letters, digits, - and _, and a letter or digit in front"
    try:
        # What cannot be shown or parsed would otherwise break the help of all.
        App(default_command=command).assemble_argument_collection(parse_docstring=True)
    except Exception as error:
        return f"is left out: no command line can be made of it: {type(error).__name__}: {error}"
    return ""


def failure(plugins: Plugins, name: str, error: BaseException) -> PluginError:
    """What to say of a command that raised *error*."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return plugins.error(plugins.command_from(name), f"its command {name!r} failed: {in_words(error)}{where}")
