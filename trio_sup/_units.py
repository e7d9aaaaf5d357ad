"""Durations as people write them."""

from __future__ import annotations

import math
import re

from .errors import InvalidValue

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: object) -> float:
    """Read a duration: a number of seconds, or text such as ``"500ms"``, ``"30s"``, ``"1m30s"``, ``"2h"``.

    Raises:
        InvalidValue: It is negative, not finite, or not a duration at all.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InvalidValue(value, "a duration must be finite")
        if value < 0:
            raise InvalidValue(value, "a duration must not be negative")
        return float(value)
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and _DURATION.sub("", value).strip() == "":
            return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
        if value.strip().startswith("-"):
            raise InvalidValue(value, "a duration must not be negative")
    raise InvalidValue(value, 'expected a duration: seconds as a number, or text such as "30s", "500ms", "1m30s"')
