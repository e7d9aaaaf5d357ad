"""Backends from OCI registries and image files: the schemes ``oci`` and ``ocifile``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trio_sup import hookimpl
from trio_sup.strategies import GallerySource

from ._source import ImageFiles, Registries

__all__ = ["ImageFiles", "Registries", "trio_sup_gallery_sources"]


@hookimpl
def trio_sup_gallery_sources() -> Mapping[str, Callable[..., GallerySource]]:
    """What this plugin offers, by the scheme of the addresses."""
    return {"oci": Registries, "ocifile": ImageFiles}
