"""Finding the installed plugins: each one is tried by itself, so that one that is broken spoils no other."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import attrs

from ._plugins import LoadedPlugin, PluginError, Plugins, full_name
from ._raised import in_words

GROUP: Final = "trio_sup"
"""The entry-point group of plugins."""

NO_AUTOLOAD: Final = "TRIO_SUP_DISABLE_PLUGIN_AUTOLOAD"
"""The environment variable that, when it is not empty, leaves out every plugin that is not asked for by name."""


@attrs.frozen
class PluginProblem:
    """A plugin that was left out, and why.

    Attributes:
        name: That of its entry point or module.
        why: What is wrong with it.
        distribution, version: What it was installed with; None if that is not known.
        required: Somebody asked for it by name, so that going on without it would be wrong.
    """

    name: str
    why: str
    distribution: str | None = None
    version: str | None = None
    required: bool = False

    def __str__(self) -> str:
        return f"plugin {full_name(self.name, self.distribution, self.version)}: {self.why}"


@attrs.frozen
class Loaded:
    """The plugins that can be used, in the order of their names, and those that cannot."""

    plugins: tuple[LoadedPlugin, ...] = ()
    problems: tuple[PluginProblem, ...] = ()


def load_plugins(
    modules: Sequence[str] = (),
    disabled: Collection[str] = (),
    required: Collection[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Load the installed plugins: those with an entry point in the group ``trio_sup``.

    Give the result's `plugins` to ``open_supervisor(plugins=...)``. Nothing a plugin does is raised here, but
    importing one runs its code, for as long as that takes.

    Args:
        modules: Names of entry points, or of modules that have none, to load besides; these are required.
        disabled: Names of plugins, or of distributions, to leave out.
        required: Names of plugins whose absence is a problem, too.
        environ: Where ``TRIO_SUP_DISABLE_PLUGIN_AUTOLOAD`` is looked for: with it, only *modules* are loaded.
    """
    loading = _Loading(frozenset(disabled), frozenset(modules) | frozenset(required))
    automatic = not environ.get(NO_AUTOLOAD)
    found = list(loading.entry_points()) if automatic or modules else []
    names = {candidate.name for candidate in found}
    for name, candidates in groupby(sorted(found, key=attrgetter("name")), attrgetter("name")):
        if automatic or name in modules:
            loading.load_one_of(list(candidates))
    for module in dict.fromkeys(modules):
        if module not in names:
            loading.load(_Candidate(module))
    loading.notice_missing()
    return Loaded(tuple(loading.plugins), tuple(loading.problems))


@attrs.frozen
class _Candidate:
    name: str
    entry_point: importlib.metadata.EntryPoint | None = None
    distribution: str | None = None
    version: str | None = None

    def is_among(self, names: Collection[str]) -> bool:
        return self.name in names or self.distribution in names

    def get(self) -> Any:
        return importlib.import_module(self.name) if self.entry_point is None else self.entry_point.load()


class _Loading:
    def __init__(self, disabled: frozenset[str], required: frozenset[str]) -> None:
        self.plugins: list[LoadedPlugin] = []
        self.problems: list[PluginProblem] = []
        self._disabled = disabled
        self._required = required

    def entry_points(self) -> Iterator[_Candidate]:
        """What is installed and not disabled.

        `importlib.metadata.entry_points` is not asked: one malformed file anywhere makes it fail as a whole.
        """
        seen = set()
        for distribution in importlib.metadata.distributions():
            name = None
            try:
                if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                    continue
                name = distribution.metadata["Name"]
                if name in seen:
                    continue
                seen.add(name)
                # The one that imports take comes first on the path, even if it has no entry point.
                first = importlib.metadata.distribution(name)
                for entry_point in dict.fromkeys(first.entry_points.select(group=GROUP)):
                    candidate = _Candidate(entry_point.name, entry_point, name, first.version)
                    if not candidate.is_among(self._disabled):
                        yield candidate
            except Exception as error:
                where = name or str(getattr(distribution, "_path", "(unnamed distribution)"))
                self._fail(_Candidate(where), f"the metadata of its distribution cannot be read: {error!r}")

    def load_one_of(self, candidates: Sequence[_Candidate]) -> None:
        """Load the only one; of several with the same name, none: which would it be?"""
        if len(candidates) == 1:
            self.load(candidates[0])
            return
        of = " and ".join(f"{one.distribution} {one.version}" for one in candidates)
        last = candidates[-1]
        self._fail(
            _Candidate(last.name),
            f"several plugins have this name, of {of}, and none of them is loaded; "
            f"uninstall one, or leave it out with -p no:{last.distribution}",
        )

    def load(self, candidate: _Candidate) -> None:
        if candidate.is_among(self._disabled):
            self._fail(candidate, "is asked for and disabled at once")
            return
        try:
            plugin = candidate.get()
        except BaseException as error:
            self._fail(candidate, f"cannot be imported: {_described(error)}")
            return
        # The same module by its entry point's name and by its own is one plugin.
        if any(known.plugin is plugin for known in self.plugins):
            return
        loaded = LoadedPlugin(candidate.name, plugin, candidate.distribution, candidate.version)
        try:
            Plugins([loaded])
        except PluginError as error:
            self._fail(candidate, error.why)
        else:
            self.plugins.append(loaded)

    def notice_missing(self) -> None:
        known = {name for loaded in self.plugins for name in names_of(loaded)}
        for name in sorted(self._required - known - {problem.name for problem in self.problems}):
            self._fail(_Candidate(name), "is required, and was not loaded")

    def _fail(self, candidate: _Candidate, why: str) -> None:
        required = candidate.is_among(self._required)
        self.problems.append(PluginProblem(candidate.name, why, candidate.distribution, candidate.version, required))


def names_of(loaded: LoadedPlugin) -> frozenset[str]:
    """What a plugin may be asked for by: its name, and that of its module."""
    return frozenset({loaded.name, str(getattr(loaded.plugin, "__name__", loaded.name))})


def _described(error: BaseException) -> str:
    """The error, and the last line of Python that led to it, unless that is the import system's."""
    text = in_words(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    outer = [frame for frame in frames if frame.filename != __file__]
    where = f" ({outer[-1].filename}:{outer[-1].lineno})" if outer else ""
    return f"{text}{where}"
