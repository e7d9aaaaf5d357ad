"""Options of the sources as people write them."""

from __future__ import annotations

from collections.abc import Iterable

from trio_sup import InvalidValue

from ._reference import registry_name

MOST_PARALLEL = 32
MOST_RETRIES = 100


def to_parallel(value: object) -> int:
    """How many at the same time."""
    return _whole(value, 1, MOST_PARALLEL)


def to_retries(value: object) -> int:
    """How often again."""
    return _whole(value, 0, MOST_RETRIES)


def _whole(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidValue(value, f"expected a whole number from {least} to {most}")
    return value


def to_registries(value: object) -> tuple[str, ...]:
    """Registries as they are written in references."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, 'expected a list of registries, such as ["registry.lan:5000"]')
    return tuple(registry_name(name) for name in value)
