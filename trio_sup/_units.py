"""Durations and sizes as people write them."""

from __future__ import annotations

import math
import re

from .errors import InvalidValue

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]B|[KMGT]iB|B)\s*", re.ASCII)
_BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def seconds(value: object) -> float:
    """Read a duration: a number of seconds, or text such as ``"500ms"``, ``"30s"``, ``"1m30s"``, ``"2h"``.

    Raises:
        InvalidValue: It is negative, not finite, or not a duration at all.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < 0:
            raise InvalidValue(value, "a duration must not be negative")
        return _finite(value, value)
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and _DURATION.sub("", value).strip() == "":
            return _finite(sum(float(number) * _SECONDS[unit] for number, unit in parts), value)
        if value.strip().startswith("-"):
            raise InvalidValue(value, "a duration must not be negative")
    raise InvalidValue(value, 'expected a duration: seconds as a number, or text such as "30s", "500ms", "1m30s"')


def seconds_above_zero(value: object) -> float:
    """Read a duration as `seconds` does, but not one of 0 seconds.

    Raises:
        InvalidValue: It is 0, or `seconds` refuses it.
    """
    result = seconds(value)
    if result <= 0:
        raise InvalidValue(value, "must be longer than 0 seconds")
    return result


def _finite(number: float, given: object) -> float:
    try:
        result = float(number)
    except OverflowError:  # a whole number may have any length
        result = math.inf
    if not math.isfinite(result):
        raise InvalidValue(given, "a duration must be finite")
    return result


def in_words(duration: float) -> str:
    """Write a duration of so many seconds as people would: ``"0.5 s"``, ``"1 min 30 s"``, ``"2 h"``."""
    if duration < 60:
        return f"{duration:.4g} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def byte_count(value: object) -> int:
    """Read a size: a whole number of bytes, or text such as ``"64KiB"``, ``"4GiB"``, ``"500MB"``, ``"0B"``.

    Raises:
        InvalidValue: It is negative, or not a size at all.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise InvalidValue(value, "a size must not be negative")
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(float(match[1]) * _BYTES[match[2]])
    raise InvalidValue(value, 'expected a size: bytes as a whole number, or text such as "64KiB" or "4GiB"')


def bytes_in_words(size_bytes: float) -> str:
    """Write a size as people would: ``"512 B"``, ``"1.5 MiB"``, ``"20 GiB"``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
