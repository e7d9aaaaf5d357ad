"""What is installed: the directories of releases, and all the names that mean them. Source: spec 7.5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import attrs

from .._releases import RESERVED_SUFFIXES, Metadata, Release, check_release_name
from ..errors import InvalidValue
from ._metadata_file import read_metadata

RUN_SCRIPT = "run.sh"
_LOST_AND_FOUND = "lost+found"
"""Which ext4 has where it is mounted, for root alone."""


@attrs.frozen
class MetaDirectory:
    """A directory that only says which release a name stands for."""

    path: Path
    stands_for: str | None


@attrs.frozen(kw_only=True)
class Inventory:
    """What was installed at the instant of looking.

    Attributes:
        releases: A release for every name, sorted by name.
        metas: The directories of metas, by the names of the metas, also where an alias means something else by now.
    """

    releases: tuple[Release, ...]
    metas: Mapping[str, MetaDirectory]
    _by_name: Mapping[str, Release] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {release.name: release for release in self.releases})

    def get(self, name: str) -> Release | None:
        """The release that is listed under *name*; else the concrete one that was installed as that, and whose
        directory is called otherwise; else None."""
        if name in self._by_name:
            return self._by_name[name]
        renamed = (r for r in self.releases if r.kind == "concrete" and not r.system and r.metadata.name == name)
        return next(renamed, None)

    def concrete(self, name: str) -> Release | None:
        """The release whose directory in the user's directory is called *name*, usable or not."""
        found = self._by_name.get(name)
        return found if found is not None and found.kind == "concrete" and not found.system else None


def take_inventory(user: Path, system: Path | None = None, *, prefer: Sequence[str] = ()) -> Inventory:
    """Look what is installed below *user*, and what came with the machine below *system*.

    Args:
        prefer: Parts of directories' names; of several releases with the same alias it means the first that has the
            first of these in its name, else the second, and so on; else the first of all.

    Raises:
        OSError: One of the directories is there and cannot be read.
    """
    rows: dict[str, Release] = {}
    for path in _directories(system) if system is not None else ():
        if is_runnable(path):
            rows[path.name] = Release(name=path.name, concrete=path.name, directory=path, system=True)
    concrete: dict[str, Release] = {}
    metas: dict[str, tuple[Path, Metadata, str | None]] = {}
    directories = _directories(user)
    taken = {path.name for path in directories}
    for path in directories:
        recorded = read_metadata(path)
        if is_runnable(path):
            concrete[path.name] = _concrete(path, recorded.metadata, recorded.problem)
        elif recorded.missing:
            continue  # nobody has ever installed it
        elif recorded.metadata.meta_backend_for or recorded.problem:
            name = _name_of_meta(path, recorded.metadata, taken)
            taken.add(name)
            metas[name] = path, recorded.metadata, recorded.problem
        else:
            concrete[path.name] = _concrete(path, recorded.metadata, f"there is no {RUN_SCRIPT} in it; install it anew")
    rows |= {name: _meta(name, metadata, problem, concrete) for name, (_, metadata, problem) in metas.items()}
    rows |= concrete
    for alias, meant in _aliases(concrete.values(), prefer).items():
        # The files that are called so are meant before those that are only nicknamed so.
        if alias not in concrete:
            rows[alias] = attrs.evolve(meant, name=alias, kind="alias")
    return Inventory(
        releases=tuple(rows[name] for name in sorted(rows)),
        metas={name: MetaDirectory(path, metadata.meta_backend_for) for name, (path, metadata, _) in metas.items()},
    )


def _directories(root: Path) -> list[Path]:
    try:
        found = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if _may_be_a_release(path.name) and path.is_dir() and not path.is_symlink()]


def _may_be_a_release(name: str) -> bool:
    if name.startswith(".") or name.endswith(RESERVED_SUFFIXES) or name == _LOST_AND_FOUND:
        return False
    return name.isprintable()


def is_runnable(path: Path) -> bool:
    """Whether the directory at *path* has a script to run, as far as one may look."""
    try:
        return (path / RUN_SCRIPT).is_file()
    except PermissionError:
        return False  # others may look into it


def _concrete(path: Path, metadata: Metadata, problem: str | None) -> Release:
    if problem is None:
        try:
            check_release_name(path.name)
        except InvalidValue as error:
            problem = f"its directory must be called otherwise: {error.why}"
    return Release(name=path.name, concrete=path.name, directory=path, metadata=metadata, problem=problem)


def _name_of_meta(path: Path, metadata: Metadata, taken: Set[str]) -> str:
    """The name that is recorded, unless that is another's, or none."""
    try:
        name = check_release_name(metadata.name)
    except InvalidValue:
        return path.name
    return path.name if name in taken else name


def _meta(name: str, metadata: Metadata, problem: str | None, concrete: Mapping[str, Release]) -> Release:
    stands_for = metadata.meta_backend_for
    meant = concrete.get(stands_for) if stands_for is not None else None
    if meant is None:
        problem = problem or f"{stands_for}, which it stands for, is not installed; install it anew"
        return Release(name=name, kind="meta", concrete=None, directory=None, metadata=metadata, problem=problem)
    return Release(
        name=name,
        kind="meta",
        concrete=meant.name,
        directory=meant.directory,
        metadata=metadata,
        problem=problem or meant.problem,
    )


def _aliases(concrete: Iterable[Release], prefer: Sequence[str]) -> Mapping[str, Release]:
    candidates: dict[str, list[Release]] = {}
    for release in concrete:
        if release.metadata.alias is not None and release.runnable:
            candidates.setdefault(release.metadata.alias, []).append(release)
    return {alias: _preferred(sorted(found, key=lambda r: r.name), prefer) for alias, found in candidates.items()}


def _preferred(candidates: Sequence[Release], prefer: Sequence[str]) -> Release:
    for word in prefer:
        for release in candidates:
            if word in release.name:
                return release
    return candidates[0]
