"""Entry point of the `trio-sup` command.

It answers `--version`, and becomes the guard of `run`, before anything heavy is imported.
"""

from __future__ import annotations

import io
import os
import sys


def main() -> int:
    """Run the `trio-sup` command; returns its exit status: 0 fine, 1 something failed, 2 wrong usage, 130 Ctrl-C."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        return _tell_version()
    try:
        _open_missing_standard_streams()
        _escape_what_stdout_lacks()
        # The guard stays small: it is forked off before the command line is even parsed, and wrong usage ends both.
        if arguments[:1] == ["run"] and not {"--help", "-h"} & set(arguments):
            from .guard._parent import run_guarded

            return run_guarded(lambda guard_pid: _command_line(arguments, guard_pid))
        return _command_line(arguments, None)
    except KeyboardInterrupt:
        return 130


def _command_line(arguments: list[str], guard_pid: int | None) -> int:
    try:
        from .runner import command_line

        return command_line(arguments, guard_pid)
    except KeyboardInterrupt:
        return 130


def _tell_version() -> int:
    from . import __version__

    try:
        print(f"trio-sup {__version__}", flush=True)  # noqa: T201  # this is what was asked for
    except OSError as error:
        # Python must not stumble over what is still buffered once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            print(f"trio-sup: cannot write: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _open_missing_standard_streams() -> None:
    """Keep the numbers 0, 1 and 2 taken: the next file opened would get one, and then the output of backends."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _escape_what_stdout_lacks() -> None:
    """Write what its encoding lacks as on stderr: a terminal may know no more than Latin letters."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
