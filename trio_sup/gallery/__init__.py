"""Galleries and releases: what can be installed, what is installed, and how the one becomes the other.

The names here are for plugins that fetch releases (`trio_sup_gallery_sources`); they load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

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
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
