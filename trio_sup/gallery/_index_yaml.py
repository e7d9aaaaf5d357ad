"""YAML into texts, lists and tables: the part of it that an index needs, and bounded whatever the file says.

Read from the parser's events rather than through PyYAML's constructors: the C parser composes nodes recursively and
crashes the process on deep nesting, constructors guess types (a version ``1.10`` becomes the number 1.1), and one value
that they refuse would hide the whole file.

Imported only where an index is read that is not in the cache, since it needs PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from ._index_values import Item, ItemList, NotAnIndex, Unusable, Value

DEEPEST = 20
"""Levels of lists and tables within one another."""
MOST_VALUES = 500_000
"""Texts, lists, tables and aliases together; the index of LocalAI has about 20,000."""
MOST_MERGED = 2_000_000
"""Keys that merges copy, all together."""
MOST_DIRECTIVES = 20
_EVENTS_PER_CHECKPOINT = 2000

_NULL = re.compile(r"(?:~|null|Null|NULL)?")
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
# The text of a scalar is kept as it stands, so its type makes no difference, as long as it is one of text.
_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")} | {"!"}


def read_list(content: bytes, *, checkpoint: Callable[[], None] = lambda: None) -> ItemList:
    """Read the outermost list of a YAML file, with its anchors, aliases and merge keys resolved.

    What aliases share is shared here too, so it must not be changed.

    Args:
        checkpoint: Called often; may raise to stop.

    Raises:
        NotAnIndex: It is not YAML, its outermost value is no list, or it goes beyond the limits.
    """
    _refuse_directives(content)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Reader(checkpoint)
    try:
        items = reader.items(yaml.parse(content, Loader=loader))
    except (yaml.YAMLError, UnicodeError) as error:
        raise NotAnIndex(f"it is not YAML: {' '.join(str(error).split())[:300]}") from None
    return ItemList(items, reader.notes)


def _refuse_directives(content: bytes) -> None:
    """The parser compares each ``%TAG`` line with all before it: a small file could keep it busy for hours."""
    if b"\0" in content:  # it is UTF-16, in which the next line would find nothing
        raise NotAnIndex("it is not YAML in UTF-8")
    if content.count(b"%TAG") > MOST_DIRECTIVES:
        raise NotAnIndex(f"it has more than {MOST_DIRECTIVES} %TAG directives")


class _Reader:
    """Events are of any type here: the stubs leave out that those of a parser always have marks, anchors and tags."""

    def __init__(self, checkpoint: Callable[[], None]) -> None:
        self.notes: list[str] = []
        self._checkpoint = checkpoint
        self._anchors: dict[str, Value] = {}
        self._values = self._merged = 0

    def items(self, events: Iterator[Any]) -> list[Item]:
        for event in events:
            if isinstance(event, SequenceStartEvent):
                break
            if isinstance(event, MappingStartEvent):
                raise NotAnIndex("it is a table, not a list of entries")
            if isinstance(event, ScalarEvent) and not event.style and _NULL.fullmatch(event.value):
                raise NotAnIndex("it is empty")
            if isinstance(event, (ScalarEvent, AliasEvent)):
                raise NotAnIndex("it is text, not a list of entries")
        else:
            raise NotAnIndex("it is empty")
        items: list[Item] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(Item(self._value(event, events, 1), event.start_mark.line + 1))
        for event in events:
            if isinstance(event, DocumentStartEvent):
                self.notes.append("it has more than one document; only the first is read")
                break
        return items

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Value:
        self._values += 1
        if self._values > MOST_VALUES:
            raise NotAnIndex(f"it has more than {MOST_VALUES:,} values")
        if self._values % _EVENTS_PER_CHECKPOINT == 0:
            self._checkpoint()
        if isinstance(event, AliasEvent):
            alias = str(event.anchor)
            return self._anchors.get(alias, Unusable(f"there is no anchor {alias[:80]!r} before this alias"))
        anchor: str | None = event.anchor
        value: Value
        if isinstance(event, ScalarEvent):
            null = event.implicit[0] and not event.style and _NULL.fullmatch(event.value)
            value = None if null or event.tag == f"{_TAG}null" else event.value
        else:
            if depth >= DEEPEST:
                raise NotAnIndex(f"line {event.start_mark.line + 1}: lists and tables more than {DEEPEST} levels deep")
            if anchor is not None:
                # One that contains itself finds this.
                self._anchors[anchor] = Unusable(f"{anchor[:80]!r} is used within itself")
            if isinstance(event, SequenceStartEvent):
                value = self._list(events, depth + 1)
            else:
                value = self._table(events, depth + 1)
        if event.tag is not None and event.tag not in _TAGS and event.tag != _MERGE:
            value = Unusable(f"line {event.start_mark.line + 1}: the tag {event.tag[:80]!r} has no meaning here")
        if anchor is not None:
            self._anchors[anchor] = value
        return value

    def _list(self, events: Iterator[Any], depth: int) -> list[Any]:
        found = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            found.append(self._value(event, events, depth))
        return found

    def _table(self, events: Iterator[Any], depth: int) -> Value:
        own: dict[str, Value] = {}
        merged: list[Value] = []
        problem: Unusable | None = None
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            line = event.start_mark.line + 1
            merges = _is_merge(event)
            key = self._value(event, events, depth)
            value = self._value(next(events), events, depth)
            if merges:
                sources = value if isinstance(value, list) else [value]
                self._count_merged(len(sources))
                merged += sources
            elif not isinstance(key, str):
                problem = problem or Unusable(f"line {line}: a key must be text")
            elif key in own:
                problem = problem or Unusable(f"line {line}: {key[:80]!r} is there twice")
            else:
                own[key] = value
        # What stands in the table itself wins, then the earlier of the merged ones.
        for source in merged:
            if not isinstance(source, dict):
                why = source.why if isinstance(source, Unusable) else "only tables can be merged with <<"
                return problem or Unusable(why)
            self._count_merged(len(source))
            for name, value in source.items():
                own.setdefault(name, value)
        return problem or own

    def _count_merged(self, number: int) -> None:
        self._merged += number
        if self._merged > MOST_MERGED:
            raise NotAnIndex(f"its merge keys copy more than {MOST_MERGED:,} keys")


def _is_merge(event: Any) -> bool:
    if not isinstance(event, ScalarEvent) or event.value != "<<":
        return False
    return bool(event.tag == _MERGE or (event.tag is None and not event.style and event.implicit[0]))
