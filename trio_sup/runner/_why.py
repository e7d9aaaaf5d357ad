"""`trio-sup why`: how backends ended, read from the state directory. Needs no supervisor, and imports no Trio."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .._exit_files import exits_in, read_all
from .._report_tables import plain
from .._reports import ExitReport
from .._values import ProcessKey
from .._wording import counted, did_you_mean
from ..errors import ConfigError
from ._state_directory import default_state_dir
from ._stderr import say, warn

_VARIABLE = "TRIO_SUP_STATE_DIR"


def why(
    identifier: str,
    *,
    config: Path,
    state_dir: Path | None,
    environ: Mapping[str, str],
    every: bool,
    as_json: bool,
) -> int:
    """Print the last end of what *identifier* means, a key or a model with all its replicas; returns the exit status.

    Args:
        config: The configuration file whose state directory is looked at, if *state_dir* names none.
        every: Print all ends that are on record, oldest first.

    Raises:
        ConfigError: There is no telling where to look.
    """
    directory = state_dir or _state_dir_of(config, environ)
    found = read_all(exits_in(directory))
    for problem in found.problems:
        warn(str(problem))
    known = sorted(key for key, reports in found.reports.items() if reports)
    keys = [key for key in known if str(key) == identifier] or [key for key in known if key.model == identifier]
    if not keys:
        say(_nothing(identifier, known, directory))
        return 1
    reports = [report for key in keys for report in found.reports[key][0 if every else -1 :]]
    if as_json:
        print(json.dumps({"reports": [plain(report) for report in reports]}))
    else:
        print(*("\n".join(map(_printable, _lines(report))) for report in reports), sep="\n\n")
    return 0


def _state_dir_of(config: Path, environ: Mapping[str, str]) -> Path:
    """Where a run with that configuration keeps its state, told without reading the rest of it."""
    folder = config.absolute().parent
    # Like every other setting, in whatever case; of two the later one counts.
    given = [environ[name] for name in sorted(environ) if name.upper() == _VARIABLE]
    if given:
        return folder / given[-1]
    try:
        chosen = tomllib.loads(config.read_bytes().decode()).get("state_dir")
    except FileNotFoundError:
        directory = default_state_dir(config)
        if directory.is_dir():
            return directory  # the file is gone, what was remembered is not
        raise _nowhere(config, "there is no such file, and nothing is on record of a run with it") from None
    except OSError as error:
        raise _nowhere(config, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _nowhere(config, f"is not valid TOML: {error}") from error
    if chosen is None:
        return default_state_dir(config)
    if not isinstance(chosen, str):
        raise _nowhere(config, f"state_dir: expected a path (got {chosen!r})")
    return folder / chosen


def _nowhere(config: Path, problem: str) -> ConfigError:
    return ConfigError(str(config), [f"{problem}. Give another file with -c, or the directory with --state-dir"])


def _nothing(identifier: str, known: Sequence[ProcessKey], directory: Path) -> str:
    if not known:
        return f"no end of any backend is on record in {directory}"
    names = [str(key) for key in known]
    near = did_you_mean(identifier, [*names, *(key.model for key in known)])
    hint = f"{near} Known" if near else "known"
    return f"no end of {identifier!r} is on record in {directory}; {hint} are {', '.join(names)}"


def _lines(report: ExitReport) -> Iterator[str]:
    yield f"{report.key} ended at {_clock(report.ended_at)}"
    for label, text in _facts(report):
        yield f"  {label:<18} {text}"
    for label, text in (("stderr, last lines", report.stderr_tail), ("traceback", report.traceback or "")):
        if text:
            yield f"  {label}:"
            yield from (f"    {line}" for line in text.splitlines())


def _facts(report: ExitReport) -> Iterator[tuple[str, str]]:
    yield "cause", report.cause.value
    yield "status", str(report.status or "still alive")
    yield "phase", report.phase.value
    yield "asked for", f"yes: {report.asked_by}" if report.asked_by else "yes" if report.asked else "no"
    yield "success", "yes" if report.success else "no"
    yield "lived", f"{report.lived:.1f} s, as pid {report.pid} (generation {report.generation})"
    gone = f"{report.stop_seconds:.2f} s after its end began"
    yield "gone", f"no, {gone}" if report.survivors else gone
    if report.killed:
        yield "killed", "yes, by SIGKILL"
    if report.left_children:
        yield "left behind", f"{counted(report.left_children, 'process', 'processes')}, killed"
    for survivor in report.survivors:
        yield "survivor", str(survivor)
    yield "out of memory", report.out_of_memory or "nothing speaks for it"
    yield "last health error", report.last_health_error or "none"
    if not report.stderr_tail:
        yield "stderr", "nothing"


def _clock(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return f"{at!r} seconds since the epoch"


def _printable(text: str) -> str:
    """*text* with nothing in it that a terminal would obey."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    return character if character.isprintable() or character == "\t" else ascii(character)[1:-1]
