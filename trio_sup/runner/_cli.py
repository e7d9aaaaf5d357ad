"""The command line: what there is to call, with its options and help."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from ..errors import ConfigError, TrioSupError
from ._leaves import leaves

Flag = Annotated[bool, Parameter(negative="")]


def command_line(arguments: list[str], guard_pid: int | None = None) -> int:
    """Do what *arguments* ask for; errors become one message on stderr.

    Args:
        guard_pid: The guard that is this process's parent, if there is one.

    Returns:
        The exit status: 0 fine, 1 something failed, 2 wrong usage or configuration, 130 ended by Ctrl-C.
    """
    try:
        status = _app(guard_pid)(arguments)
        return status if isinstance(status, int) else 0
    except CycloptsError as error:
        command = " ".join(["trio-sup", *(error.command_chain or ())])
        _complain(f"{error}\nSee `{command} --help`.")
        return 2
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        reasons = tuple(leaves(error))
        if any(isinstance(reason, KeyboardInterrupt) for reason in reasons):
            return 130
        if not all(isinstance(reason, (TrioSupError, BrokenPipeError)) for reason in reasons):
            raise
        if any(isinstance(reason, BrokenPipeError) for reason in reasons):
            # Whoever read our stdout has gone; Python must not stumble over that once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain("\n".join(map(str, reasons)))
        return 2 if all(isinstance(reason, ConfigError) for reason in reasons) else 1


def _complain(text: str) -> None:
    print(f"trio-sup: {text}", file=sys.stderr)


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
    )

    @app.command
    def run(
        *,
        config: Annotated[Path, Parameter(name=["--config", "-c"])] = Path("trio-sup.toml"),
        state_dir: Path | None = None,
        quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
        json: Flag = False,
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
        """
        from ._config import read_config
        from ._run import run as run_backends

        checked = read_config(config, os.environ)
        return run_backends(checked, state_dir, quiet=quiet, as_json=json, guard_pid=guard_pid)

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

    return app
