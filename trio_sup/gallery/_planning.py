"""What is to be installed, and from where: from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from .._releases import Metadata, check_release_name
from ..errors import InvalidValue
from ._addresses import shown
from ._index import DEVELOPMENT, IndexEntry
from ._uris import Address, address_of, default_name, to_sha256

_LATEST, _MASTER = "latest-", "master-"


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be installed.

    Attributes:
        asked: The name that was asked for, which a meta may be.
        concrete: What the release is called.
        metas: The names that are to stand for it.
        addresses: Where it is fetched from, in the order of trying.
        sha256: Digest that what is fetched must have, if one is known.
        verification: How the gallery says that it is signed.
        record: What is known already of what is to be recorded.
    """

    asked: str
    concrete: str
    metas: tuple[str, ...] = ()
    addresses: tuple[str, ...]
    sha256: str | None = None
    verification: Mapping[str, Any] = attrs.field(factory=dict)
    record: Metadata

    @property
    def names(self) -> tuple[str, ...]:
        """All names whose directories change."""
        return (self.concrete, *self.metas)


def plan_for_entry(entry: IndexEntry, metas: tuple[str, ...] = (), asked: str | None = None) -> Plan:
    """Install what a gallery offers, under the names of *metas* as well.

    Raises:
        InvalidValue: A meta has the name of what it stands for.
    """
    assert entry.uri is not None, "a meta is not installed by itself"
    if entry.name in metas:
        raise InvalidValue(entry.name, f"the gallery {entry.gallery.name} has a meta that stands for itself")
    return Plan(
        asked=asked or entry.name,
        concrete=entry.name,
        metas=metas,
        addresses=tuple(dict.fromkeys((entry.uri, *entry.mirrors, *other_tags(entry.uri)))),
        sha256=entry.sha256,
        verification=entry.gallery.verification,
        record=Metadata(
            name=entry.name, alias=entry.alias, gallery_url=shown(entry.gallery.url), version=entry.version
        ),
    )


def plan_for_address(address: Address, *, name: str | None, alias: str | None, sha256: str | None) -> Plan:
    """Install what is at *address*, as *name*.

    Raises:
        InvalidValue: A name or the digest makes no sense, or the address gives no name.
    """
    concrete = default_name(address) if name is None else check_release_name(name)
    if alias is not None:
        check_release_name(alias)
    return Plan(
        asked=concrete,
        concrete=concrete,
        addresses=(address.uri,),
        sha256=to_sha256(sha256),
        record=Metadata(name=concrete, alias=alias if alias != concrete else None),
    )


def other_tags(uri: str) -> tuple[str, ...]:
    """Where a build may be if it was not released under its tag: of images only.

    Source: spec 7.7; LocalAI tries ``master-…`` for ``latest-…``, and then the twin under development.
    """
    try:
        address = address_of(uri)
    except InvalidValue:
        return ()
    if address is None or address.scheme != "oci" or "@" in uri:
        return ()
    image, colon, tag = uri.rpartition(":")
    if not colon or "/" in tag or not tag.startswith(_LATEST):
        return ()
    master = f"{image}:{_MASTER}{tag.removeprefix(_LATEST)}"
    return (master,) if master.endswith(DEVELOPMENT) else (master, master + DEVELOPMENT)
