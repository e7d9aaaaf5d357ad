"""The table `[galleries]`: where releases are kept, and where they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from .._gallery_errors import UnknownRelease
from .._releases import Release, UnpackLimits
from .._structuring import below
from .._values import Choice
from ..gallery._gallery import Gallery, InvalidGalleries, galleries_from_json
from ..gallery._settings import Galleries
from ..gallery._store import Store
from ._made_strategy import Chosen
from ._salvage import structure_what_is_right

INDEX_VARIABLES = ("LOCALAI_BACKEND_GALLERIES", "BACKEND_GALLERIES")
"""Environment variables that list the galleries, if the file does not; the first that is set counts. Source: spec 8."""


@attrs.frozen(kw_only=True)
class GalleriesTable:
    """`[galleries]` as it stands in the file; what is left out comes from the environment, or is as usual."""

    backends_dir: Path | None = None
    system_dir: Path | None = None
    index: Sequence[Gallery] | None = None
    index_json: str | None = None
    auto_install: bool = False
    require_integrity: bool = False
    capability: str | None = None
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    sources: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


def read_table(table: object, folder: Path, environ: Mapping[str, str]) -> tuple[Galleries | None, Sequence[str]]:
    """Make of `[galleries]` what is right in it, and say what is not; None if nothing can be made of it.

    Args:
        folder: What relative paths are relative to.
    """
    if not isinstance(table, Mapping):
        return None, ["galleries: expected a table"]
    said, problems = structure_what_is_right(GalleriesTable, table, "galleries")
    if said is None:
        return None, problems
    reading = _Reading(folder, environ, list(problems))
    fields = {
        field.name: value
        for field in attrs.fields(GalleriesTable)
        if field.name != "index_json" and (value := getattr(said, field.name)) is not None
    }
    fields["backends_dir"] = reading.directory("backends_dir", said.backends_dir) or reading.usual_directory()
    if said.system_dir is not None:
        fields["system_dir"] = reading.directory("system_dir", said.system_dir)
    index = reading.index(said)
    if index is not None:
        fields["index"] = index
    galleries, more = structure_what_is_right(Galleries, fields, "galleries")
    # What stands somewhere else is not to be looked for in the table.
    written = [re.sub(r"^galleries\.index:", f"{reading.index_from}:", problem) for problem in more]
    return galleries, [*reading.problems, *written]


def strategies_of(galleries: Galleries) -> Iterator[Chosen]:
    """The gallery sources that have options."""
    for scheme, options in galleries.sources.items():
        yield "gallery source", Choice(scheme, **options), below("sources", scheme)


def find_release(galleries: Galleries, name: str, capability: str = "default") -> tuple[Release | None, str]:
    """The installed release that *name* means, or None and why it cannot be run.

    Args:
        capability: Of this machine; which of several builds an alias means hangs on it.

    Raises:
        OSError: A directory of releases cannot be read.
    """
    try:
        release = Store(galleries.backends_dir, system_dir=galleries.system_dir).find(name, capability)
    except UnknownRelease as error:
        return None, str(error)
    if release.runnable:
        return release, ""
    return None, f"{name!r} is installed, but cannot be run: {release.problem or 'there is no run.sh in it'}"


@attrs.define
class _Reading:
    folder: Path
    environ: Mapping[str, str]
    problems: list[str]
    index_from: str = "galleries.index"

    def directory(self, key: str, given: Path | None) -> Path | None:
        """*given* without its ``~``, in the folder of the file."""
        try:
            return given and self.folder / given.expanduser()
        except RuntimeError as error:
            self.problems.append(f"galleries.{key}: {error} (got {str(given)!r})")
            return None

    def usual_directory(self) -> Path:
        """Where releases are, unless it is said.

        Source: the XDG base directory specification, which tells to ignore a relative ``XDG_DATA_HOME``.
        """
        home = Path(self.environ.get("XDG_DATA_HOME", ""))
        try:
            home = home if home.is_absolute() else Path("~/.local/share").expanduser()
        except RuntimeError:
            self.problems.append("galleries.backends_dir: give one, since there is no home directory")
        return home / "trio-sup" / "backends"

    def index(self, said: GalleriesTable) -> Sequence[Gallery] | None:
        """The galleries that are meant; None for the usual ones."""
        if said.index_json is not None:
            if said.index is not None:
                self.problems.append("galleries.index_json: there is an index already; give only one of them")
                return said.index
            self.index_from = "galleries.index_json"
            return self._listed(self._json(said.index_json))
        if said.index is not None:
            return said.index
        for variable in INDEX_VARIABLES:
            if text := self.environ.get(variable, "").strip():
                self.index_from = variable
                return self._listed(text)
        return None

    def _json(self, text: str) -> str:
        if not _is_path(text):
            return text
        try:
            return (self.folder / text).read_text(encoding="utf-8")
        except OSError as error:
            self.problems.append(f"galleries.index_json: {text!r} cannot be read: {error.strerror}")
        except ValueError:
            self.problems.append(f"galleries.index_json: {text!r} is not UTF-8 text")
        return ""

    def _listed(self, text: str) -> Sequence[Gallery]:
        try:
            return galleries_from_json(text)
        except InvalidGalleries as error:
            self.problems += [f"{self.index_from}{problem}" for problem in error.problems] or [
                f"{self.index_from}: {error}"
            ]
            return ()


def _is_path(text: str) -> bool:
    """Whether it names a file, rather than being JSON itself (be it broken)."""
    if not text.strip() or text.lstrip().startswith(("[", "{")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False
