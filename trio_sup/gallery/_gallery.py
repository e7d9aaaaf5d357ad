"""Which galleries there are: a value of each, from TOML, and from the list that LocalAI keeps as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .._options import complaints_name_fields
from .._structuring import InvalidTable, structure
from ..errors import InvalidValue
from ._addresses import located, shown

LONGEST_NAME = 128


def _to_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > LONGEST_NAME:
        raise InvalidValue(value, f"expected printable text of at most {LONGEST_NAME} characters")
    if "@" in value or "/" in value or value != value.strip():
        raise InvalidValue(value, "a gallery's name has no @, no / and no blanks around it: it is used as gallery@name")
    return value


def _to_address(value: object) -> str:
    located(value)
    return str(value)


def _to_mirrors(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidValue(value, "expected a list of addresses")
    for position, mirror in enumerate(value):
        try:
            located(mirror)
        except InvalidValue as error:
            raise InvalidValue(error.value, f"[{position}]: {error.why}") from None
    return tuple(value)


def _to_verification(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidValue(value, "expected a table")
    return dict(value)


def _repr_of_address(address: str) -> str:
    return repr(shown(address))


def _repr_of_addresses(addresses: Sequence[str]) -> str:
    return repr(tuple(map(shown, addresses)))


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Gallery:
    """A catalogue of backends that can be had.

    Args:
        name: What it is called here: ``name@backend`` means a backend of this gallery.
        url: Of its index: ``https://…``, ``http://…``, ``file:///…``, or ``github:owner/repository/path@branch``. One
            that ends in ``.ref`` holds the name of the index, which lies beside it.
        mirrors: Where else the index can be read, tried in this order after *url*.
        verification: How its releases are signed; the gallery sources know what may be in it. Empty if they are not.

    Raises:
        InvalidValue: A field has none of these forms.
    """

    name: str = attrs.field(converter=_to_name)
    url: str = attrs.field(converter=_to_address, repr=_repr_of_address)
    mirrors: tuple[str, ...] = attrs.field(default=(), converter=_to_mirrors, repr=_repr_of_addresses)
    verification: Mapping[str, Any] = attrs.field(factory=dict, converter=_to_verification, hash=False)


DEFAULT_GALLERY = Gallery(
    name="localai",
    url="https://index.localai.io/backends",
    mirrors=("github:mudler/LocalAI/backend/index.yaml@master",),
)
"""The gallery of LocalAI. Source: spec 7.1."""


@attrs.define(slots=False, eq=False)
class InvalidGalleries(InvalidValue):
    """A list of galleries that cannot be meant.

    Attributes:
        problems: All of them, each beginning with its position: ``[1].mirrors: …``.
    """

    problems: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.why}: {'; '.join(self.problems)}" if self.problems else self.why


def galleries_from_json(text: str) -> tuple[Gallery, ...]:
    """Read the list of galleries as LocalAI keeps it, in ``LOCALAI_BACKEND_GALLERIES`` and in requests.

    Blank text is an empty list. What is unknown here in an entry is passed over, since newer versions may write more.

    Raises:
        InvalidGalleries: It is not JSON, no list, or entries of it cannot be meant; all of them are named.
    """
    if not text.strip():
        return ()
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidGalleries(text, f"a list of galleries must be JSON: {error}") from None
    if entries is None:  # how Go writes a list that was never made
        return ()
    if not isinstance(entries, list):
        raise InvalidGalleries(text, "a list of galleries must be a JSON list")
    galleries: list[Gallery] = []
    problems: list[str] = []
    for position, entry in enumerate(entries):
        try:
            galleries.append(structure(Gallery, _known_part(entry), f"[{position}]"))
        except InvalidTable as error:
            problems += error.problems
    if problems:
        raise InvalidGalleries(text, "a list of galleries cannot be read", problems)
    return tuple(galleries)


def _known_part(entry: Any) -> Any:
    known = attrs.fields_dict(Gallery)
    if not isinstance(entry, dict):
        return entry  # refused by the caller, with its place
    return {key: value for key, value in entry.items() if key in known and value is not None}
