"""Galleries and releases: what can be installed, what is installed, and how the one becomes the other.

The names here are for plugins that fetch releases (`trio_sup_gallery_sources`); they load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._addresses import shown as shown
    from ._copying import copy_directory as copy_directory
    from ._download import Downloaded as Downloaded
    from ._download import download as download
    from ._download import http_client as http_client
    from ._unpacking import Unpacker as Unpacker
    from ._unpacking import unpack as unpack

_HOMES = {
    "_addresses": ("shown",),
    "_copying": ("copy_directory",),
    "_download": ("Downloaded", "download", "http_client"),
    "_unpacking": ("Unpacker", "unpack"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
