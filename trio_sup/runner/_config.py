"""The configuration file: read, overridden by the environment, and checked; all problems at once."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from .._dependencies import find_cycle
from .._releases import UnpackLimits
from .._resolution import resolve
from .._structuring import InvalidTable, below, structure
from .._values import Liveness, LogSettings, Readiness
from .._wording import did_you_mean, instead_of
from ..engine._command import check
from ..engine._loading import PluginProblem, names_of
from ..engine._plugins import Kind, Plugins
from ..engine._raised import contained
from ..errors import ConfigError, DependencyCycle, InvalidCommand, InvalidValue, TrioSupError
from ..gallery._settings import Galleries
from ._default_config import DEFAULT_CONFIG
from ._gallery_config import GalleriesTable, find_release, read_table, strategies_of
from ._made_strategy import make_or_explain
from ._overrides import apply_overrides
from ._salvage import structure_what_is_right
from ._settings import Config, ConfiguredBackend, Group, Settings

T = TypeVar("T")

_EXAMPLE = """\
there is no such file. Give another one with -c, or make it; this is enough to begin with:

    [backends.vectors]
    command = ["python3", "-m", "trio_sup.backends.store"]
"""


_KNOWN: Mapping[tuple[str, ...], type] = {
    (): Settings,
    ("groups", "*"): Group,
    ("galleries",): GalleriesTable,
    ("galleries", "limits"): UnpackLimits,
    ("backends", "*"): ConfiguredBackend,
    ("backends", "*", "readiness"): Readiness,
    ("backends", "*", "logs"): LogSettings,
    ("backends", "*", "liveness"): Liveness,
}
TOP_LEVEL = frozenset({"backends", "galleries", *(field.name for field in attrs.fields(Settings))})
"""Keys at the top of the file that no plugin can have."""


def read_config(
    path: Path, environ: Mapping[str, str], plugins: Plugins | None = None, failed: Sequence[PluginProblem] = ()
) -> Config:
    """Read the file at *path*, with the settings in *environ* on top.

    Args:
        plugins: Whose strategies and sections are known; by default the built-in ones.
        failed: Plugins that could not be loaded, to say why if they are required.

    Raises:
        ConfigError: It cannot be used; names every problem with its path.
    """
    return interpret(load_table(path), path, environ, plugins, failed)


def load_table(path: Path) -> dict[str, Any]:
    """Read the file at *path*, which must be TOML.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(str(path), [_EXAMPLE]) from None
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), [f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"]
        ) from None
    except RecursionError:
        raise ConfigError(str(path), ["is nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError, and Python's own for numbers of thousands of digits
        line = re.search(r"\(at line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(where, [f"is not valid TOML: {error}"]) from None


def interpret(
    table: dict[str, Any],
    path: Path,
    environ: Mapping[str, str],
    plugins: Plugins | None = None,
    failed: Sequence[PluginProblem] = (),
) -> Config:
    """Make a configuration of the *table* that was read from *path*; the arguments are those of `read_config`.

    Raises:
        ConfigError: It cannot be used; names every problem with its path.
    """
    table = dict(table)
    plugins = plugins or Plugins()
    classes = {name: cls for name, cls in plugins.sections.items() if name not in TOP_LEVEL}
    overrides = apply_overrides(table, environ, {**_KNOWN, **{(name,): cls for name, cls in classes.items()}})
    reader = _Reader(path, plugins)
    reader.drop_unknown(table, {*TOP_LEVEL, *classes})
    tables, about_galleries = table.pop("backends", {}), table.pop("galleries", None)
    sections = reader.sections({name: table.pop(name, None) for name in classes}, classes)
    settings = reader.settings(table)
    reader.check_required(settings.required_plugins, failed)
    backends = reader.backends(tables, settings)
    galleries = reader.galleries(about_galleries, backends, environ)
    problems = [*overrides.problems, *map(overrides.attribute, reader.problems)]
    if problems:
        raise ConfigError(str(path), problems)
    return Config(path=path, settings=settings, backends=backends, galleries=galleries, sections=sections)


class _Reader:
    """Reads what it can and notes what it cannot, so that one problem does not hide the next."""

    def __init__(self, path: Path, plugins: Plugins) -> None:
        self.problems: list[str] = []
        self._path = path
        self._folder = path.absolute().parent
        self._plugins = plugins

    def drop_unknown(self, table: dict[str, Any], known: Iterable[str]) -> None:
        """Complain about the keys at the top that mean nothing, and take them out."""
        known = sorted(known)
        for key in sorted(table.keys() - set(known)):
            self.problems.append(f"{below('', key)}: unknown key; {instead_of(key, known)}")
            del table[key]

    def sections(self, tables: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, object]:
        """Make the sections of plugins; one that the file leaves out gets its defaults, if it can."""
        made: dict[str, object] = {}
        for name, cls in classes.items():
            table = tables[name]
            fields = [field for field in attrs.fields(cls) if field.init]
            if table is None and any(field.default is attrs.NOTHING for field in fields):
                continue
            if table is not None and not isinstance(table, Mapping):
                self.problems.append(f"{below('', name)}: expected a table")
                continue
            try:
                made[name] = cls() if table is None else structure(cls, table, below("", name))
            except InvalidTable as error:
                self.problems += error.problems
            except BaseException as error:
                why = f"its configuration section {name!r} cannot be made: {contained(error)!r}"
                self.problems.append(str(self._plugins.error(self._plugins.section_from(name), why)))
        return made

    def check_required(self, names: Iterable[str], failed: Sequence[PluginProblem]) -> None:
        known = {name for loaded in self._plugins.loaded() for name in names_of(loaded)}
        for index, name in enumerate(names):
            if name not in known:
                reasons = [str(problem) for problem in failed if problem.name == name]
                why = "; ".join(reasons) or f"there is no plugin {name!r}; install it, or load its module with -p"
                self.problems.append(f"required_plugins[{index}]: {why}")

    def settings(self, table: Mapping[str, Any]) -> Settings:
        settings = self._structure(Settings, table, "") or Settings()
        for kind, choice, place in settings.strategies():
            self._check_strategy(kind, choice, place)
        state_dir = settings.state_dir and self._folder / settings.state_dir
        log_dir = settings.log_dir and self._folder / settings.log_dir
        return attrs.evolve(settings, state_dir=state_dir, log_dir=log_dir, token=self._token(settings))

    def _token(self, settings: Settings) -> str | None:
        if settings.token_file is None:
            return settings.token
        if settings.token is not None:
            self.problems.append("token_file: there is a token already; give only one of them")
            return None
        try:
            text = (self._folder / settings.token_file).read_text(encoding="utf-8").strip()
            return attrs.evolve(settings, token=text).token
        except InvalidValue as error:
            self.problems.append(f"token_file: {error.why.removeprefix('token: ')}")
        except OSError as error:
            self.problems.append(f"token_file: cannot be read: {error.strerror}")
        except ValueError:
            self.problems.append("token_file: is not UTF-8 text")
        return None

    def backends(self, tables: object, settings: Settings) -> tuple[ConfiguredBackend, ...]:
        if not isinstance(tables, Mapping):
            self.problems.append("backends: expected a table for each backend: [backends.NAME]")
            return ()
        if not tables:
            self.problems.append("backends: there is none; add a table [backends.NAME] with at least its command")
        found = (self._backend(name, table, settings) for name, table in tables.items())
        backends = tuple(backend for backend in found if backend is not None)
        for one, other in combinations(backends, 2):
            path = below("backends", other.name)
            if one.process_keys()[0] == other.process_keys()[0]:
                self.problems.append(
                    f"{path}.model: {one.name!r} serves the model {one.process_keys()[0].model!r} already"
                )
            for name in sorted(one.names() & other.names()):
                self.problems.append(f"{path}: the name {name!r} means the backend {one.name!r} already")
        self._check_relations(backends, settings)
        return backends

    def galleries(
        self, table: object, backends: Sequence[ConfiguredBackend], environ: Mapping[str, str]
    ) -> Galleries | None:
        """Where releases are, if that is said, or if one of *backends* needs to know it."""
        if table is None and all(backend.release is None for backend in backends):
            return None
        galleries, problems = read_table({} if table is None else table, self._folder, environ)
        self.problems += problems
        if galleries is not None:
            for kind, choice, where in strategies_of(galleries):
                self._check_strategy(kind, choice, f"galleries.{where}")
            if not problems:
                self._check_releases(galleries, backends)
        return galleries

    def _check_releases(self, galleries: Galleries, backends: Sequence[ConfiguredBackend]) -> None:
        """Complain about releases that are not there, unless they are to be installed when they are wanted."""
        for backend in backends:
            if backend.release is None:
                continue
            try:
                release, why_not = find_release(galleries, backend.release)
            except OSError as error:
                self.problems.append(f"galleries.backends_dir: cannot be read: {error}")
                return
            if release is None and not galleries.auto_install:
                self.problems.append(
                    f"{below('backends', backend.name)}.release: {why_not}. Install it with "
                    f"`trio-sup install {backend.release}{self._named_config()}`, or have that done when it is "
                    "started: galleries.auto_install = true"
                )

    def _named_config(self) -> str:
        """The option that makes another command read the same file."""
        return "" if self._path == DEFAULT_CONFIG else f" -c {shlex.quote(str(self._path))}"

    def _check_relations(self, backends: Sequence[ConfiguredBackend], settings: Settings) -> None:
        """Complain about needs and groups that mean nothing, and about needs that go round in a circle."""
        specs = [(key, backend) for backend in backends for key in backend.process_keys()]
        names = sorted({name for key, backend in specs for name in (key.model, *backend.names())})
        for backend in backends:
            path = below("backends", backend.name)
            for index, need in enumerate(backend.needs):
                if not resolve(need, specs):
                    near = did_you_mean(need, names)
                    hint = f"; {near}" if near else ""
                    self.problems.append(f"{path}.needs[{index}]: there is no backend {need!r} in this file{hint}")
            if backend.group is not None and backend.group not in settings.groups:
                near = did_you_mean(backend.group, sorted(settings.groups))
                hint = near or f"add a table [groups.{backend.group}]"
                self.problems.append(f"{path}.group: there is no group {backend.group!r}; {hint}")
        cycle = find_cycle(specs)
        if cycle is not None:
            self.problems.append(f"backends: {DependencyCycle(cycle)}")

    def _backend(self, name: str, table: object, settings: Settings) -> ConfiguredBackend | None:
        path = below("backends", name)
        if not isinstance(table, Mapping):
            self.problems.append(f"{path}: expected a table")
            return None
        if "name" in table:
            self.problems.append(f"{path}.name: its name is that of the table; leave this out")
        inherited = {"host": settings.host, "token": settings.token}
        given = {key: value for key, value in inherited.items() if value is not None} | {**table, "name": name}
        stand_in = {"name": "x" + re.sub(r"[^A-Za-z0-9]", "-", name), "command": ["true"]}
        if "release" not in given and given.get("command", []) == []:
            why = "a command must not be empty" if "command" in given else "missing"
            self.problems.append(f"{path}.command: {why}; give the program and its arguments, or a release to run")
            given["command"] = stand_in["command"]
        backend = self._structure(ConfiguredBackend, given, path, stand_in)
        if backend is None:
            return None
        backend = self._in_folder(backend)
        for kind, choice, place in backend.strategies():
            strategy = self._check_strategy(kind, choice, f"{path}.{place}")
            if kind == "launch preparation" and strategy is not None:
                self._check_preparation(strategy, choice, backend, f"{path}.{place}")
        self._check_command(backend, path)
        return backend

    def _structure(
        self, cls: type[T], table: Mapping[str, Any], path: str, stand_in: Mapping[str, Any] = MappingProxyType({})
    ) -> T | None:
        made, problems = structure_what_is_right(cls, table, path, stand_in)
        self.problems += problems
        return made

    def _in_folder(self, backend: ConfiguredBackend) -> ConfiguredBackend:
        """Relative paths are relative to the folder of the file, wherever the command was given."""
        # A release is run in its own directory.
        folder = self._folder if backend.release is None else None
        return attrs.evolve(
            backend,
            cwd=self._folder / backend.cwd if backend.cwd is not None else folder,
            env_file=backend.env_file and self._folder / backend.env_file,
            directory=backend.directory and self._folder / backend.directory,
        )

    def _check_strategy(self, kind: Kind, choice: Any, path: str) -> object | None:
        """Make the strategy, to see whether that works."""
        made, problems = make_or_explain(self._plugins, kind, choice, path)
        self.problems += problems
        return made

    def _check_preparation(self, preparation: Any, choice: Any, backend: ConfiguredBackend, path: str) -> None:
        try:
            preparation.check(backend.spec())
        except TrioSupError as error:
            self.problems.append(f"{path}: {error}")
        except BaseException as error:
            why = f"its check() raised {contained(error)!r}"
            self.problems.append(f"{path}: {self._plugins.error_of('launch preparation', choice, why)}")

    def _check_command(self, backend: ConfiguredBackend, path: str) -> None:
        try:
            check(backend)
        except InvalidCommand as error:
            self.problems.append(f"{path}.command: {error}")
        except InvalidValue as error:
            self.problems.append(f"{path}: {error}")
        except OSError as error:
            self.problems.append(f"{path}.command: {error.strerror}: {error.filename}")
