"""What is asked for: process keys and backend specifications, checked on the way in."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from ._options import complaints_name_fields
from ._releases import NAME, check_release_name
from ._units import byte_count, seconds, seconds_above_zero
from .errors import InvalidValue

_ENV_NAME = re.compile(r"[^=\0]+")

LEAST_ROOM = 1024
MOST_FILES = 1000


def _checked_model(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidValue(value, "a model name must be non-empty printable text")
    return value


def _checked_replica(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidValue(value, "a replica must be a whole number, counted from 0")
    return value


@attrs.frozen(order=True)
class ProcessKey:
    """Names one running slot of a backend: written ``model#replica``, compared by its fields.

    Args:
        model: Non-empty printable text; may itself contain ``#``.
        replica: Counted from 0.

    Raises:
        InvalidValue: The model is empty or the replica is not a whole number ≥ 0.
    """

    model: str = attrs.field(converter=_checked_model)
    replica: int = attrs.field(default=0, converter=_checked_replica)

    @classmethod
    def parse(cls, text: str) -> ProcessKey:
        """Read ``model#replica``, split at the last ``#``.

        Raises:
            InvalidValue: There is no ``#``, no model before it, or no whole number after it.
        """
        model, hash_sign, replica = text.rpartition("#") if isinstance(text, str) else ("", "", "")
        if not hash_sign or not model or not (replica.isascii() and replica.isdecimal()):
            raise InvalidValue(text, 'expected a process key such as "model#0"')
        return cls(model, int(replica))

    def __str__(self) -> str:
        return f"{self.model}#{self.replica}"


@attrs.frozen(init=False)
class Choice:
    """A strategy chosen by name, with the options it is built from: ``Choice("affinity", quarantine="30s")``."""

    name: str
    options: Mapping[str, Any] = attrs.field(hash=False)

    def __init__(self, name: str, /, **options: Any) -> None:
        self.__attrs_init__(name, options)


def to_choice(value: Any) -> Any:
    """Read a strategy setting: a name, a table with ``strategy`` and options, or the strategy object itself.

    Raises:
        InvalidValue: It is a table without ``strategy``, or an empty name.
    """
    if isinstance(value, str):
        if not value:
            raise InvalidValue(value, "a strategy name must not be empty")
        return Choice(value)
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("strategy", None)
        if not isinstance(name, str) or not name:
            raise InvalidValue(value, 'expected a name, or a table such as { strategy = "name", … }')
        return Choice(name, **options)
    return value


GroupRestart = Literal["one-for-one", "one-for-all", "rest-for-one"]
GROUP_RESTARTS = ("one-for-one", "one-for-all", "rest-for-one")
"""Who is restarted with a member of a group that fails: nobody, all the others, or those that were started after it."""

PROGRESS = ("memory", "output", "reads")
"""Signs that a start makes headway."""


def _to_progress(value: object) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, f"expected a list of {', '.join(map(repr, PROGRESS))}")
    names = list(value)
    for name in names:
        if name not in PROGRESS:
            raise InvalidValue(name, f"expected one of {', '.join(map(repr, PROGRESS))}")
    return frozenset(names)


def to_count(value: object) -> int:
    """Read how many of something there are to be: a whole number, at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidValue(value, "expected a whole number, at least 1")
    return value


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Readiness:
    """How it is told that a started process may take calls.

    Args:
        probe: ``"localai"`` (Health must answer exactly ``OK``), ``"grpc-health"``, ``"tcp"``, ``"http"``,
            ``"exec"``, a [`Choice`][trio_sup.Choice] with options, a table, or a probe object.
        timeout: Seconds from launch until it must be ready.
        interval: Longest wait, in seconds, between two checks.
        call_timeout: Seconds that one check may take.
        progress: What counts as progress of a start: ``"output"`` (it writes), ``"reads"`` (its tree reads) and
            ``"memory"`` (its tree grows). Each sign of it begins *timeout* anew.
        max_timeout: Seconds from launch after which no progress helps; needs *progress*. By default ten times
            *timeout*.
        period: Seconds between two checks once it is ready; 0 for none.
        failure_threshold: Failed checks in a row that take it out of rotation.
        success_threshold: Passed checks in a row that put it back.

    Source: 30 s, 200 ms and 2 s are the LocalAI worker's numbers; period and thresholds are those of Kubernetes.
    """

    probe: Any = attrs.field(default=Choice("localai"), converter=to_choice)
    timeout: float = attrs.field(default=30.0, converter=seconds_above_zero)
    interval: float = attrs.field(default=0.2, converter=seconds_above_zero)
    call_timeout: float = attrs.field(default=2.0, converter=seconds_above_zero)
    progress: frozenset[str] = attrs.field(default=frozenset(), converter=_to_progress)
    max_timeout: float | None = attrs.field(default=None, converter=attrs.converters.optional(seconds_above_zero))
    period: float = attrs.field(default=10.0, converter=seconds)
    failure_threshold: int = attrs.field(default=3, converter=to_count)
    success_threshold: int = attrs.field(default=1, converter=to_count)

    def __attrs_post_init__(self) -> None:
        if self.max_timeout is None:
            return
        if not self.progress:
            raise InvalidValue(self.max_timeout, "max_timeout: has no effect without progress")
        if self.max_timeout < self.timeout:
            raise InvalidValue(self.max_timeout, f"max_timeout: must not be below timeout ({self.timeout:g} s)")

    @property
    def hard_timeout(self) -> float:
        """Seconds from launch after which it is not waited for any longer, whatever progress it makes."""
        if not self.progress:
            return self.timeout
        return 10 * self.timeout if self.max_timeout is None else self.max_timeout


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Liveness:
    """How it is told that a ready process still makes headway; one that does not is ended, and restarted by policy.

    A failed check does not count while the tree is at work: it uses the processor, reads, writes output or grows, as it
    does in a long LoadModel; but not for longer than *busy_timeout*.

    Args:
        probe: As for `Readiness`.
        period: Seconds between two checks.
        call_timeout: Seconds that one check may take.
        failure_threshold: Failed checks in a row after which it is ended.
        busy_timeout: Seconds without a passed check for which being at work excuses it; 0 for no excuse.
    """

    probe: Any = attrs.field(default=Choice("localai"), converter=to_choice)
    period: float = attrs.field(default=10.0, converter=seconds_above_zero)
    call_timeout: float = attrs.field(default=2.0, converter=seconds_above_zero)
    failure_threshold: int = attrs.field(default=3, converter=to_count)
    busy_timeout: float = attrs.field(default=600.0, converter=seconds)


def _to_choices(value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise InvalidValue(value, "expected a list of strategies, each a name, a table or an object")
    return tuple(to_choice(each) for each in value)


def to_signal(value: object) -> signal.Signals:
    """Read a signal: a member of `signal.Signals`, a number, or a name such as ``"SIGINT"`` or ``"INT"``."""
    try:
        if isinstance(value, str):
            return signal.Signals[value if value.startswith("SIG") else f"SIG{value}"]
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value)
    except (KeyError, ValueError):
        pass
    raise InvalidValue(value, 'expected a signal such as "SIGTERM"')


def _to_command(value: object) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValue(value, "a command is a list: the program and its arguments")
    command = tuple(os.fspath(part) if isinstance(part, os.PathLike) else part for part in value)
    for part in command:
        if not isinstance(part, str) or "\0" in part:
            raise InvalidValue(part, "a command consists of texts without NUL characters")
    return command


def _to_environment(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidValue(value, "an environment is a table of names and texts")
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise InvalidValue(name, "not a name for an environment variable")
        if not isinstance(text, str) or "\0" in text:
            raise InvalidValue(text, f"the environment variable {name} must be text without NUL characters")
    return dict(value)


def _to_path(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise InvalidValue(value, "expected a path")
    return Path(value)


def _to_name(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidValue(value, "a backend name starts with a letter or digit, then letters, digits and . _ + -")
    return value


def _to_names(value: object) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, "aliases are a list of names")
    return frozenset(_to_name(name) for name in value)


def _to_signals(value: object) -> frozenset[signal.Signals]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, 'success signals are a list such as ["SIGTERM"]')
    return frozenset(to_signal(each) for each in value)


def _to_needs(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, 'needs are a list of models, process keys or names of backends, such as ["embed"]')
    needs = tuple(str(each) if isinstance(each, ProcessKey) else each for each in value)
    for each in needs:
        if not isinstance(each, str) or not each.strip() or not each.isprintable():
            raise InvalidValue(each, "expected a model, a process key or the name of a backend")
    return tuple(dict.fromkeys(needs))


def _to_codes(value: object) -> frozenset[int]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, "success codes are a list of numbers from 0 to 255")
    codes = list(value)
    for code in codes:
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 255:
            raise InvalidValue(code, "a success code is a number from 0 to 255")
    return frozenset(codes)


def _to_host(value: object) -> str:
    if not isinstance(value, str) or not value or not re.fullmatch(r"[A-Za-z0-9._:%-]+", value):
        raise InvalidValue(value, "expected a host name or an IP address without port")
    return value


def _to_token(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise InvalidValue("(hidden)", "a token must be non-empty printable ASCII text")
    return value


def _to_receiver(value: object) -> Literal["leader", "group"]:
    if value in ("leader", "group"):
        return value
    raise InvalidValue(value, "expected 'leader' or 'group'")


def _to_identity(value: object) -> Literal["strict", "auto", "off"]:
    if value in ("strict", "auto", "off"):
        return value
    raise InvalidValue(value, "expected 'strict', 'auto' or 'off'")


def to_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(value, "expected true or false")
    return value


def _to_room(value: object) -> int:
    result = byte_count(value)
    if result < LEAST_ROOM:
        raise InvalidValue(value, f"must be at least {LEAST_ROOM} bytes")
    return result


def _to_file_count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_FILES:
        raise InvalidValue(value, f"expected a whole number from 0 to {MOST_FILES}")
    return value


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class LogSettings:
    """How much of what a backend writes is kept.

    Sizes are bytes, or texts such as ``"64KiB"`` and ``"10MB"``; the smallest is 1 KiB.

    Args:
        ring_bytes: Memory that the newest output of one process key may take, that of earlier attempts included.
        max_bytes: Size at which a log file is put aside and a new one is begun; only a single line that is longer
            makes a larger file.
        files: How many log files are kept of one process key, the one that is written to included; 0 writes none.
    """

    ring_bytes: int = attrs.field(default=256 * 1024, converter=_to_room)
    max_bytes: int = attrs.field(default=10 * 1024 * 1024, converter=_to_room)
    files: int = attrs.field(default=5, converter=_to_file_count)


def _to_log_settings(value: object) -> LogSettings:
    if not isinstance(value, LogSettings):
        raise InvalidValue(value, "expected a trio_sup.LogSettings")
    return value


def _to_liveness(value: object) -> Liveness | None:
    if value is not None and not isinstance(value, Liveness):
        raise InvalidValue(value, "expected a trio_sup.Liveness")
    return value


def _to_readiness(value: object) -> Readiness:
    if not isinstance(value, Readiness):
        raise InvalidValue(value, "expected a trio_sup.Readiness")
    return value


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class BackendSpec:
    """What to run: a program that serves gRPC, and how to start, recognise and stop it.

    Args:
        name: Name of the backend; letters, digits and ``. _ + -``.
        command: Program and arguments. ``{host}``, ``{port}`` and ``{address}`` are filled in; if none of them is
            used, ``--addr host:port`` is appended. A program without ``/`` is looked up on the PATH of the
            backend's environment; one with ``/`` is relative to ``cwd``. With *release*, further arguments only.
        release: Name of the installed backend to run, by any of its names: its ``run.sh`` is the program, and its
            directory the working directory unless ``cwd`` says otherwise. See `open_supervisor`'s *galleries*.
        aliases: Other names that mean this same backend.
        cwd: Working directory; the supervisor's own by default.
        env: Variables set on top of the inherited environment and of ``env_file``.
        env_file: A file of ``NAME=value`` lines, read at each start.
        clear_env: Start from an empty environment instead of the supervisor's own.
        host: Address the backend binds to and is called at.
        ports: Which port it gets; None takes the supervisor's choice. Backends with equal choices share one strategy.
        token: Bearer token its calls must carry; given to it as ``LOCALAI_GRPC_AUTH_TOKEN``. Never shown.
        stop_signal: The polite signal.
        signal_to: Who receives the polite signal: ``"group"`` (every process of its group) or ``"leader"`` (only the
            process itself, for a server that stops its own workers and must not lose them first).
        grace: Seconds between the polite signal and SIGKILL.
        success_codes: Exit codes that count as success when it ends by itself.
        success_signals: Signals whose death counts as success when it ends by itself.
        restart_policy: What follows when it ends although nobody asked for it; None takes the supervisor's choice.
        stop_policy: How to ask it to end; None takes the supervisor's choice.
        launch: Launch preparations, applied in this order: each changes what is executed.
        identity: ``"auto"`` (a stranger on the port is never taken for the backend; what cannot be told falls back to
            the socket's user), ``"strict"`` (what cannot be told is not ready) or ``"off"``.
        readiness: How it is told that it may take calls.
        liveness: How it is told that it still makes headway once it is ready; None for no such checks.
        warm_up: What is done after each start, in this order, before it is READY.
        needs: Models, process keys or names of backends that must be ready before this one is started; they are
            stopped after it.
        bind: When one of those fails, this one is stopped, and restarted after it.
        group: Name of the group it is restarted together with; see `open_supervisor`.
        significant: When it ends for good although nobody asked for it, the whole supervisor ends.
        idle_timeout: Seconds without a lease after which a ready one is stopped; None for never.
        pinned: It is never stopped for being idle, nor to make room for others.
        memory: Bytes that it is taken to need until they can be measured; see `open_supervisor`.
        directory: The directory whose replacement on disk makes a running process stale; by default ``cwd``, else
            the directory of the program.
        logs: How much of what it writes is kept.

    Raises:
        InvalidValue: A field makes no sense; the message names it.

    Source: grace 15 s and the token's variable are the LocalAI worker's.
    """

    name: str = attrs.field(converter=_to_name)
    command: Sequence[str] = attrs.field(default=(), converter=_to_command)
    release: str | None = attrs.field(default=None, converter=attrs.converters.optional(check_release_name))
    aliases: frozenset[str] = attrs.field(default=frozenset(), converter=_to_names)
    cwd: Path | None = attrs.field(default=None, converter=attrs.converters.optional(_to_path))
    env: Mapping[str, str] = attrs.field(factory=dict, converter=_to_environment, hash=False, repr=False)
    env_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(_to_path))
    clear_env: bool = attrs.field(default=False, converter=to_bool)
    host: str = attrs.field(default="127.0.0.1", converter=_to_host)
    ports: Any = attrs.field(default=None, converter=attrs.converters.optional(to_choice))
    token: str | None = attrs.field(default=None, converter=attrs.converters.optional(_to_token), repr=False)
    stop_signal: signal.Signals = attrs.field(default=signal.SIGTERM, converter=to_signal)
    signal_to: Literal["leader", "group"] = attrs.field(default="group", converter=_to_receiver)
    grace: float = attrs.field(default=15.0, converter=seconds)
    success_codes: frozenset[int] = attrs.field(default=frozenset({0}), converter=_to_codes)
    success_signals: frozenset[signal.Signals] = attrs.field(default=frozenset(), converter=_to_signals)
    restart_policy: Any = attrs.field(default=None, converter=attrs.converters.optional(to_choice))
    stop_policy: Any = attrs.field(default=None, converter=attrs.converters.optional(to_choice))
    launch: Sequence[Any] = attrs.field(default=(), converter=_to_choices)
    identity: Literal["strict", "auto", "off"] = attrs.field(default="auto", converter=_to_identity)
    readiness: Readiness = attrs.field(factory=Readiness, converter=_to_readiness)
    liveness: Liveness | None = attrs.field(default=None, converter=_to_liveness)
    warm_up: Sequence[Any] = attrs.field(default=(), converter=_to_choices)
    needs: Sequence[str] = attrs.field(default=(), converter=_to_needs)
    bind: bool = attrs.field(default=False, converter=to_bool)
    group: str | None = attrs.field(default=None, converter=attrs.converters.optional(_to_name))
    significant: bool = attrs.field(default=False, converter=to_bool)
    idle_timeout: float | None = attrs.field(default=None, converter=attrs.converters.optional(seconds_above_zero))
    pinned: bool = attrs.field(default=False, converter=to_bool)
    memory: int | None = attrs.field(default=None, converter=attrs.converters.optional(byte_count))
    directory: Path | None = attrs.field(default=None, converter=attrs.converters.optional(_to_path))
    logs: LogSettings = attrs.field(factory=LogSettings, converter=_to_log_settings)

    def __attrs_post_init__(self) -> None:
        if self.release is None and not self.command:
            raise InvalidValue(
                list(self.command), "command: give the program and its arguments, or the name of a release to run"
            )
        if self.release is None and not self.command[0]:
            raise InvalidValue(list(self.command), "command: the program of a command must not be empty")
        if self.bind and not self.needs:
            raise InvalidValue(self.bind, "bind: has no effect without needs")
        if self.pinned and self.idle_timeout is not None:
            raise InvalidValue(self.idle_timeout, "idle_timeout: has no effect on a pinned backend")

    def names(self) -> frozenset[str]:
        """The name and all aliases."""
        return self.aliases | {self.name}

    def differs_from(self, other: BackendSpec) -> tuple[str, ...]:
        """Names of the fields in which a process started from *other* would not be what this asks for.

        Two specifications name the same backend if the name of one is the name or an alias of the other;
        a shared alias alone is not enough.
        """
        same_backend = self.name in other.names() or other.name in self.names()
        fields = [field.name for field in attrs.fields(BackendSpec) if field.name not in ("name", "aliases")]
        differing = [name for name in fields if getattr(self, name) != getattr(other, name)]
        return tuple(differing if same_backend else ["name", *differing])


def to_identifier(value: ProcessKey | str) -> str:
    """The text that says which backends are meant.

    Raises:
        InvalidValue: It is neither text nor a key, a `Backend` for example: as text that would mean nothing.
    """
    if not isinstance(value, (ProcessKey, str)):
        raise InvalidValue(value, "expected a process key, a model, or the name of a backend")
    return str(value)


def to_key(value: ProcessKey | str) -> ProcessKey:
    """A process key, or the text of one.

    Raises:
        InvalidValue: The text is not a process key.
    """
    return value if isinstance(value, ProcessKey) else ProcessKey.parse(value)
