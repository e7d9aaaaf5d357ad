"""The command line: what there is to call, with its options and help."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from ..errors import ConfigError, TrioSupError
from ._default_config import DEFAULT_CONFIG
from ._gallery_cli import COMMANDS, add_gallery_commands
from ._leaves import leaves
from ._option_types import ConfigFile, Flag, PluginOption
from ._stderr import say, warn

_OWN = frozenset({"run", "check", "why", "demo", "plugins"}) | COMMANDS
_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def command_line(arguments: list[str], guard_pid: int | None = None) -> int:
    """Do what *arguments* ask for; errors become one message on stderr.

    Args:
        guard_pid: The guard that is this process's parent, if there is one.

    Returns:
        The exit status: 0 fine, 1 something failed, 2 wrong usage or configuration, 130 ended by Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not fit into the encoding of a terminal
    app = _app(guard_pid)
    try:
        # What trio-sup does by itself is not to wait for the plugins' commands, or to fail because of them.
        own = bool(arguments) and arguments[0] in _OWN
        status = app(arguments) if own else _with_plugin_commands(app, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except CycloptsError as error:
        command = " ".join(["trio-sup", *(error.command_chain or ())])
        say(f"{error}\nSee `{command} --help`.")
        return 2
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        reasons = tuple(leaves(error))
        if any(isinstance(reason, KeyboardInterrupt) for reason in reasons):
            return 130
        complaints = [_complaint(reason) for reason in reasons]
        if None in complaints:
            raise
        if any(map(_is_unwritable, reasons)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python must not stumble over it again when it flushes
        if said := [complaint for complaint in complaints if complaint]:
            say("\n".join(said))
        return 2 if all(isinstance(reason, ConfigError) for reason in reasons) else 1


def _complaint(error: BaseException) -> str | None:
    """What to say about *error*; None if it is a fault of our own."""
    if isinstance(error, TrioSupError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return ""  # whoever read our stdout has gone, as `head` does when it has seen enough
    if _is_unwritable(error):
        return f"cannot write: {error}"
    if isinstance(error, FileNotFoundError) and not _is_somewhere():
        return "the current directory has been removed: go to another one"
    return None


def _is_unwritable(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _UNWRITABLE


def _is_somewhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _with_plugin_commands(app: App, arguments: list[str]) -> object:
    from ._chosen_plugins import ChosenPlugins
    from ._plugin_commands import failure, usable_commands

    chosen = ChosenPlugins([], os.environ)
    commands, problems = usable_commands(chosen.plugins, _OWN)
    for problem in (*chosen.problems, *problems):
        warn(str(problem))
    for name, command in commands.items():
        app.command(command, name=name)
    try:
        return app(arguments)
    except (CycloptsError, BrokenPipeError):
        raise
    except Exception as error:
        if arguments[:1] and arguments[0] in commands:
            raise failure(chosen.plugins, arguments[0], error) from error
        raise


def _app(guard_pid: int | None) -> App:
    app = App(
        name="trio-sup",
        help="Start, watch and end gRPC backend processes.",
        version=f"trio-sup {__version__}",
        version_flags=["--version", "-V"],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        print_error=False,
        exit_on_error=False,
        backend="trio",
    )

    @app.command
    def run(
        *,
        config: ConfigFile = DEFAULT_CONFIG,
        state_dir: Path | None = None,
        quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
        json: Flag = False,
        plugin: PluginOption = (),
    ) -> int:
        """Run the configured backends in the foreground, until Ctrl-C or SIGTERM.

        Their output appears on stdout, each line with its process in front (`|` stdout, `!` stderr); what happens to
        them on stderr. A second signal ends them without grace, a third exits at once.

        Parameters
        ----------
        config
            The configuration file. Environment variables override it:
            TRIO_SUP_BACKENDS__CHAT__REPLICAS=2 sets backends.chat.replicas.
        state_dir
            Directory for the state of this run; by default one per configuration file below
            ~/.local/state/trio-sup. Only one run may use it at a time.
        quiet
            Leave out what the backends write.
        json
            Write output and events to stdout as one JSON object per line.
        plugin
            Load this plugin or module besides the installed ones, and fail without it; `no:NAME` leaves one out.
            Can be given several times.
        """
        from ._chosen_plugins import ChosenPlugins
        from ._config import read_config
        from ._run import run as run_backends

        chosen = ChosenPlugins(plugin, os.environ)
        chosen.complain()
        checked = read_config(config, os.environ, chosen.plugins, chosen.problems)
        chosen.required.update(checked.settings.required_plugins)
        return run_backends(checked, chosen.plugins, state_dir, quiet=quiet, as_json=json, guard_pid=guard_pid)

    @app.command
    def check(*, config: ConfigFile = DEFAULT_CONFIG, json: Flag = False, plugin: PluginOption = ()) -> int:
        """Read the configuration as `run` does, start nothing, and tell what each backend comes to.

        For each backend: its processes, release, command, probe and stop policy, and when it would be restarted and
        given up.
        Exits with 2 if the configuration cannot be used, and says all that is wrong with it.

        Parameters
        ----------
        config
            The configuration file. Environment variables override it, as they do for `run`.
        json
            Print one JSON document instead.
        plugin
            Load this plugin or module besides the installed ones, and fail without it; `no:NAME` leaves one out.
            Can be given several times.
        """
        from ._check_command import show_check
        from ._chosen_plugins import ChosenPlugins
        from ._config import read_config

        chosen = ChosenPlugins(plugin, os.environ)
        chosen.complain()
        checked = read_config(config, os.environ, chosen.plugins, chosen.problems)
        show_check(checked, chosen.plugins, as_json=json)
        return 0

    @app.command
    def why(
        key: str,
        /,
        *,
        every: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
        config: ConfigFile = DEFAULT_CONFIG,
        state_dir: Path | None = None,
        json: Flag = False,
    ) -> int:
        """Tell why a backend ended: what or who ended it, how, in which phase, and what it wrote last.

        Works while a run goes on and after it has ended. Exits with 1 if no end is on record.

        Parameters
        ----------
        key
            A process key such as vectors#0, or a model to tell of all its replicas.
        every
            Tell of all ends that are on record, at most 20 for each key, oldest first.
        config
            The configuration file of the run.
        state_dir
            The state directory of the run, if it is not the one of the configuration.
        json
            Print one JSON document instead.
        """
        from ._why import why as tell_why

        return tell_why(key, config=config, state_dir=state_dir, environ=os.environ, every=every, as_json=json)

    @app.command
    def plugins(*, config: ConfigFile = DEFAULT_CONFIG, json: Flag = False, plugin: PluginOption = ()) -> int:
        """List the plugins: where they come from, which hooks they answer, what they offer and what is in use.

        Exits with 1 if one cannot be used.

        Parameters
        ----------
        config
            The configuration that tells what is in use, if there is such a file.
        json
            Print one JSON document instead.
        plugin
            Load this plugin or module besides the installed ones; `no:NAME` leaves one out.
            Can be given several times.
        """
        from ._chosen_plugins import ChosenPlugins
        from ._config import read_config
        from ._plugin_commands import usable_commands
        from ._plugins_command import show_plugins

        chosen = ChosenPlugins(plugin, os.environ)
        problems = (*chosen.problems, *usable_commands(chosen.plugins, _OWN)[1])
        read, unusable = None, False
        if config != DEFAULT_CONFIG or config.exists():
            try:
                read = read_config(config, os.environ, chosen.plugins, chosen.problems)
            except ConfigError as error:
                unusable = True
                say(f"what is in use cannot be told\n{error}")
        show_plugins(chosen.plugins, problems, read, as_json=json)
        return 1 if problems or unusable else 0

    @app.command
    def demo(*, json: Flag = False) -> int:
        """Start two bundled backends, call them, stop them, and prove that nothing of them is left.

        Needs no configuration. Exits with 0 only if every answer was right and every process is gone.

        Parameters
        ----------
        json
            Print the result as one JSON document instead.
        """
        from ._demo import run_demo

        return run_demo(as_json=json)

    add_gallery_commands(app)
    return app
