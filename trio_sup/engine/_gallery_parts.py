"""From what was said about galleries to what installs from them; for supervisors, and for commands without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from .._gallery_errors import UnknownSource
from .._values import Choice
from ..errors import InvalidValue
from ..gallery._catalogue import Catalogue
from ..gallery._installing import Installer
from ..gallery._machine import detect_capability
from ..gallery._settings import Galleries
from ..gallery._store import Store
from ..strategies import GallerySource
from ._plugins import Plugins


def lock_choice(install_lock: Any, galleries: Galleries | None) -> Any:
    """The install lock, with the directory that all who share the releases agree on, unless another one was named."""
    if galleries is None or install_lock != Choice("file"):
        return install_lock
    return Choice("file", directory=str(Store(galleries.backends_dir).locks_dir))


async def detected(galleries: Galleries) -> Galleries:
    """*galleries* with the capability of this machine, if they do not name one.

    Cancellation: ends soon; no process remains.
    """
    if galleries.capability is not None:
        await trio.lowlevel.checkpoint()
        return galleries
    return attrs.evolve(galleries, capability=await detect_capability())


def make_installer(
    galleries: Galleries,
    plugins: Plugins,
    install_lock: Any,
    contain: Callable[[GallerySource, str], GallerySource] = lambda source, name: source,
) -> Installer:
    """Put together what installs from *galleries*, whose capability is known.

    Args:
        install_lock: The choice of one; see `lock_choice`.
        contain: Wraps a source, which is called so in messages.

    Raises:
        InvalidOptions, UnknownStrategy, PluginError: A source or the lock cannot be made from its options.
        InvalidValue: There are options for a source that nobody offers.
    """
    known = plugins.offered("gallery source")
    for scheme in galleries.sources:
        if scheme not in known:
            raise InvalidValue(scheme, f"galleries.sources: no such source; known are {', '.join(sorted(known))}")
    # Made now, so that wrong options are a clear error at once.
    configured = {scheme: _make(scheme, galleries, plugins, contain) for scheme in galleries.sources}

    def source_of(uri: str, scheme: str) -> GallerySource:
        if scheme not in known:
            raise UnknownSource(uri, scheme, sorted(known))
        if scheme not in configured:
            configured[scheme] = _make(scheme, galleries, plugins, contain)
        return configured[scheme]

    capability = galleries.capability or "default"
    store = Store(galleries.backends_dir, system_dir=galleries.system_dir)
    return Installer(
        store,
        source_of=source_of,
        catalogue=Catalogue(
            galleries.index, capability=capability, cache_dir=store.cache_dir, files_below=galleries.backends_dir
        ),
        lock=plugins.make("install lock", install_lock),
        require_integrity=galleries.require_integrity,
        limits=galleries.limits,
        capability=capability,
    )


def _make(
    scheme: str, galleries: Galleries, plugins: Plugins, contain: Callable[[GallerySource, str], GallerySource]
) -> GallerySource:
    choice = Choice(scheme, **galleries.sources.get(scheme, {}))
    return contain(plugins.make("gallery source", choice), plugins.name_of("gallery source", choice))
