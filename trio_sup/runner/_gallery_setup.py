"""What the commands for galleries and releases need of the configuration, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .._releases import UnpackLimits
from ..engine._plugins import Plugins
from ..errors import ConfigError
from ..gallery._settings import Galleries
from ._config import load_table
from ._default_config import DEFAULT_CONFIG
from ._gallery_config import GalleriesTable, read_table, strategies_of
from ._made_strategy import make_or_explain
from ._overrides import PREFIX, apply_overrides
from ._salvage import structure_what_is_right
from ._settings import Settings

_KNOWN: Mapping[tuple[str, ...], type] = {
    (): Settings,
    ("galleries",): GalleriesTable,
    ("galleries", "limits"): UnpackLimits,
}
_READ = ("galleries", "install_lock")


@attrs.frozen(kw_only=True)
class GallerySetup:
    """Where releases are and come from.

    Attributes:
        install_lock: What keeps installations and launches apart, in `trio-sup run` as well.
    """

    galleries: Galleries
    install_lock: Any
    plugins: Plugins


def read_setup(
    path: Path,
    environ: Mapping[str, str],
    plugins: Plugins,
    *,
    backends_dir: Path | None,
    require_integrity: bool,
) -> GallerySetup:
    """Read `[galleries]` and `install_lock` of the file at *path*; whatever else is in it may be wrong.

    Args:
        path: It need not be there if it is the default one.
        backends_dir: Instead of the one in the file.
        require_integrity: Whether it is required although the file does not say so.

    Raises:
        ConfigError: It cannot be used; names every problem with its path.
    """
    whole = load_table(path) if path != DEFAULT_CONFIG or path.exists() else {}
    table = {key: whole[key] for key in _READ if key in whole}
    overrides = apply_overrides(table, _only(environ), _KNOWN)
    about: Any = table.pop("galleries", {})
    if backends_dir is not None and isinstance(about, Mapping):
        # Shells leave the ~ of --backends-dir=~/backends as it is.
        at_home = str(backends_dir).startswith("~")
        about = {**about, "backends_dir": str(backends_dir if at_home else backends_dir.absolute())}
    galleries, found = read_table(about, path.absolute().parent, environ)
    settings, more = structure_what_is_right(Settings, table, "")
    problems = [*found, *more]
    if settings is not None:
        problems += make_or_explain(plugins, "install lock", settings.install_lock, "install_lock")[1]
    for kind, choice, where in strategies_of(galleries) if galleries is not None else ():
        problems += make_or_explain(plugins, kind, choice, f"galleries.{where}")[1]
    if overrides.problems or problems:
        raise ConfigError(str(path), [*overrides.problems, *map(overrides.attribute, problems)])
    assert galleries is not None
    assert settings is not None
    if require_integrity:
        galleries = attrs.evolve(galleries, require_integrity=True)
    return GallerySetup(galleries=galleries, install_lock=settings.install_lock, plugins=plugins)


def _only(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that set what is read here."""
    names = tuple(name.upper() for name in _READ)
    return {
        variable: value
        for variable, value in environ.items()
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX).upper().partition("__")[0] in names
    }
