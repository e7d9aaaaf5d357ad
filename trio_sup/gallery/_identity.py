"""Which names mean the same files, over the links of aliases and metas, both ways."""

from __future__ import annotations

from ._listing import Inventory


def concrete_name(inventory: Inventory, name: str) -> str:
    """The name of the release whose files *name* means; for a meta whose release is gone, what that was called; for
    what is not installed, *name* itself."""
    release = inventory.get(name)
    if release is None:
        return name
    return release.concrete or release.metadata.meta_backend_for or name


def meant_by(inventory: Inventory, name: str) -> tuple[str, ...]:
    """The names of all releases that go when *name* is deleted, the one that it means first.

    It is more than one only if a meta and an alias of the same name mean different releases.
    """
    meta = inventory.metas.get(name)
    names = [concrete_name(inventory, name)]
    if meta is not None and meta.stands_for is not None:
        names.append(meta.stands_for)
    return tuple(dict.fromkeys(names))


def identity(inventory: Inventory, name: str) -> frozenset[str]:
    """All names that mean what *name* means, itself included; of a name that is not installed, only itself."""
    meant = meant_by(inventory, name)
    names = {name, *meant}
    for release in inventory.releases:
        if concrete_name(inventory, release.name) in meant:
            names.add(release.name)
            installed_as = release.metadata.name
            # A directory that was renamed still goes by the name it was installed as, unless that is another's.
            if release.kind == "concrete" and installed_as and inventory.get(installed_as) is release:
                names.add(installed_as)
    return frozenset(names)


def metas_of(inventory: Inventory, concrete: str) -> tuple[str, ...]:
    """The names of the metas that stand for *concrete*."""
    return tuple(name for name, meta in inventory.metas.items() if meta.stands_for == concrete)
