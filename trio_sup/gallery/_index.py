"""The index of a gallery: its entries, read from YAML so that a broken one hides nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from .._options import complaints_name_fields
from .._releases import check_release_name
from ..errors import InvalidValue
from ._gallery import Gallery
from ._index_values import NotAnIndex, Unusable, Value, in_brief

DEVELOPMENT = "-development"
"""How the names of builds end that were not released. Source: spec 7.3."""
LONGEST_ADDRESS = 4096
LONGEST_LINE = 1000
LONGEST_TEXT = 20_000
LONGEST_LIST = 500
MOST_PROBLEMS = 50
"""Problems of one index that are told; beyond, only how many more there are."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Control characters, and those that turn the direction of what follows: descriptions end up in terminals.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _to_alias(value: object) -> str | None:
    return check_release_name(value) if value is not None and value != "" else None


def _to_address(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > LONGEST_ADDRESS or not value.isprintable():
        raise InvalidValue(value, "expected an address")
    if " " in value:
        raise InvalidValue(value, "an address has no blanks")
    return value


def _to_optional_address(value: object) -> str | None:
    return _to_address(value) if value is not None and value != "" else None


def _to_mirrors(value: object) -> tuple[str, ...]:
    return tuple(map(_to_address, _to_items(value)))


def _to_items(value: object) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > LONGEST_LIST:
        raise InvalidValue(value, f"expected a list of at most {LONGEST_LIST}")
    return value


def _to_version(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > LONGEST_LINE or not value.isprintable():
        raise InvalidValue(value, "expected a line of text")
    return value


def _to_sha256(value: object) -> str | None:
    if value is None or value == "":
        return None
    digits = value.strip().lower().removeprefix("sha256:") if isinstance(value, str) else ""
    if not _SHA256.fullmatch(digits):
        raise InvalidValue(value, "expected 64 hex digits")
    return digits


def _to_capabilities(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > LONGEST_LIST:
        raise InvalidValue(value, f"expected a table of at most {LONGEST_LIST} capabilities and names of backends")
    for capability, name in value.items():
        if not isinstance(capability, str) or not capability.isprintable():
            raise InvalidValue(capability, "a capability is a word")
        check_release_name(name)
    return dict(value)


def _to_text(value: object) -> str:
    """For descriptions: too long is cut, what must not be seen is replaced."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidValue(value, "expected text")
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value[:LONGEST_TEXT])


def _to_texts(value: object) -> tuple[str, ...]:
    return tuple(map(_to_text, _to_items(value)))


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class IndexEntry:
    """A backend that a gallery offers.

    Attributes:
        gallery: Whose index it is in.
        name: What it is called there; valid as a directory's name.
        alias: Another name, shared by the builds of one engine.
        uri: Where a concrete backend is fetched from; None for a meta.
        mirrors: Where else, in the order in which they are to be tried.
        version: What the gallery calls this version.
        sha256: Digest of the archive, in lower-case hex digits.
        capabilities: For a meta, the concrete backend for each capability of machines. Concrete ones may have it too,
            where they were merged from their meta; there it means nothing.
        description: For people, as are the following; no control characters except line feeds and tabs.
        size: As the gallery writes it.
    """

    gallery: Gallery
    name: str = attrs.field(converter=check_release_name)
    alias: str | None = attrs.field(default=None, converter=_to_alias)
    uri: str | None = attrs.field(default=None, converter=_to_optional_address)
    mirrors: tuple[str, ...] = attrs.field(default=(), converter=_to_mirrors)
    version: str | None = attrs.field(default=None, converter=_to_version)
    sha256: str | None = attrs.field(default=None, converter=_to_sha256)
    capabilities: Mapping[str, str] = attrs.field(factory=dict, converter=_to_capabilities, hash=False)
    description: str = attrs.field(default="", converter=_to_text)
    license: str = attrs.field(default="", converter=_to_text)
    urls: tuple[str, ...] = attrs.field(default=(), converter=_to_texts)
    icon: str = attrs.field(default="", converter=_to_text)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_to_texts)
    size: str = attrs.field(default="", converter=_to_text)

    def __attrs_post_init__(self) -> None:
        if self.uri is None and not self.capabilities:
            raise InvalidValue(self.name, "an entry needs a uri, or capabilities if it is a meta")

    @property
    def is_meta(self) -> bool:
        """Whether it only stands for the concrete backend that fits the machine."""
        return self.uri is None

    @property
    def is_development(self) -> bool:
        """Whether it is a build that was not released."""
        return self.name.endswith(DEVELOPMENT)

    @property
    def full_name(self) -> str:
        """``gallery@name``."""
        return f"{self.gallery.name}@{self.name}"


FIELDS = tuple(field.name for field in attrs.fields(IndexEntry) if field.name != "gallery")
# What may be missing without harm.
_FOR_PEOPLE: Mapping[str, Callable[[object], Any]] = {
    "description": _to_text,
    "license": _to_text,
    "urls": _to_texts,
    "icon": _to_text,
    "tags": _to_texts,
    "size": _to_text,
}


@attrs.frozen(kw_only=True)
class Index:
    """What a gallery offers.

    Attributes:
        entries: In the gallery's order; no two have the same name, whatever the case of its letters.
        problems: What is wrong with the index, for people; entries that were left out are named.
    """

    entries: Sequence[IndexEntry]
    problems: Sequence[str] = ()


def parse_index(content: bytes, gallery: Gallery, *, checkpoint: Callable[[], None] = lambda: None) -> Index:
    """Read the index of *gallery*: a YAML list of entries.

    An entry that cannot be used is left out and reported, and so is the second of two with one name. Fields that only
    people read are left out alone. Keys that are unknown here are passed over.

    Args:
        checkpoint: Called often; may raise to stop.

    Raises:
        NotAnIndex: It is a web page, is not YAML, is no list, has no entry that can be used, or is absurdly large.
    """
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise NotAnIndex("it is a web page")
    from ._index_yaml import read_list

    read = read_list(content, checkpoint=checkpoint)
    if not read.items:
        raise NotAnIndex("the list is empty")
    found: dict[str, IndexEntry] = {}
    problems = list(read.notes)
    for position, item in enumerate(read.items, 1):
        if position % 100 == 0:
            checkpoint()
        where = f"entry {position} (line {item.line})"
        try:
            fields, left_out = _fields(item.value)
            entry = IndexEntry(gallery=gallery, **fields)
        except InvalidValue as error:
            problems.append(f"{where} is left out: {in_brief(error)}")
            continue
        problems += [f"{where}, {entry.name}: {problem}" for problem in left_out]
        if entry.name.lower() in found:
            problems.append(f"{where} is left out: the name {entry.name!r} is there already")
        else:
            found[entry.name.lower()] = entry
    if not found:
        raise NotAnIndex(f"no entry of it can be used; {problems[0]}")
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"… and {len(problems) - MOST_PROBLEMS} more"]
    return Index(entries=tuple(found.values()), problems=tuple(problems))


def _fields(value: Value) -> tuple[dict[str, Any], Sequence[str]]:
    """What of *value* an entry is made of, and which of it was left out for what reason."""
    if isinstance(value, Unusable):
        raise InvalidValue(value, "")
    if not isinstance(value, dict):
        raise InvalidValue(value, "expected a table")
    fields: dict[str, Any] = {key: value[key] for key in FIELDS if key in value}
    problems = []
    for key, convert in _FOR_PEOPLE.items():
        try:
            fields[key] = convert(fields.get(key))
        except InvalidValue as error:
            del fields[key]
            problems.append(f"its {key} is left out: {in_brief(error)}")
    if "name" not in fields:
        raise InvalidValue(None, "it has no name")
    return fields, problems
