"""Options as people write them: limits, sizes, CPUs, masks, name patterns."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable

from trio_sup import InvalidValue

Limit = tuple[int, int]

UNLIMITED = resource.RLIM_INFINITY
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(i?)B)?", re.ASCII)
_POWER = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}
_CPUS = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", re.ASCII)
# The kernel's own numbers of CPUs stay far below; without a bound "0-9999999999" would take all memory.
_MOST_CPUS = 65536


def to_limit(value: object) -> Limit:
    """Soft and hard limit: one value for both, or a pair."""
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise InvalidValue(value, "expected one limit, or the soft and the hard one")
        soft, hard = to_amount(value[0]), to_amount(value[1])
        if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
            raise InvalidValue(value, "the soft limit is above the hard one")
        return soft, hard
    return to_amount(value), to_amount(value)


def to_amount(value: object) -> int:
    """A number, a size such as ``"512MiB"`` (``"1kB"`` is no size, ``"1MB"`` is 1000000), or ``"unlimited"``."""
    amount = -1
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, int) and not isinstance(value, bool):
        amount = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        amount = int(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2]]
    if not 0 <= amount < 2**63:
        raise InvalidValue(value, 'expected a number, a size such as "512MiB", or "unlimited"')
    return amount


def to_nice(value: object) -> int:
    """A nice value."""
    if not isinstance(value, int) or isinstance(value, bool) or not -20 <= value <= 19:
        raise InvalidValue(value, "expected a number from -20 (first) to 19 (last)")
    return value


def to_cpus(value: object) -> frozenset[int]:
    """A list of CPU numbers, or text such as ``"0-3,8"``; all must be ones this process may use."""
    cpus: set[int] = set()
    if isinstance(value, str):
        for part in value.split(","):
            match = _CPUS.fullmatch(part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last < _MOST_CPUS:
                raise InvalidValue(value, 'expected CPUs such as "0-3,8"')
            cpus.update(range(first, last + 1))
    elif isinstance(value, Iterable) and all(isinstance(cpu, int) and not isinstance(cpu, bool) for cpu in value):
        cpus.update(value)
    if not cpus:
        raise InvalidValue(value, 'expected a list of CPUs, or text such as "0-3,8"')
    available = os.sched_getaffinity(0)
    if not cpus <= available:
        raise InvalidValue(
            value,
            f"CPU {', '.join(map(str, sorted(cpus - available)))} is not available; those are "
            f"{', '.join(map(str, sorted(available)))}",
        )
    return frozenset(cpus)


def to_umask(value: object) -> int:
    """A mask as octal text: a bare number would be read as a decimal one."""
    if not isinstance(value, str) or not re.fullmatch(r"0*[0-7]{1,3}", value, re.ASCII):
        raise InvalidValue(value, 'expected octal digits as text, such as "027"')
    return int(value, 8)


def to_patterns(value: object) -> tuple[str, ...]:
    """Name patterns as in the shell."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(value, 'expected a list of names or patterns, such as ["LC_*"]')
    patterns = tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise InvalidValue(pattern, 'expected a name or a pattern, such as "LC_*"')
    return patterns


def to_bool(value: object) -> bool:
    """True or false, and nothing else."""
    if not isinstance(value, bool):
        raise InvalidValue(value, "expected true or false")
    return value


def to_account(value: object) -> str | int:
    """The name or the number of a user or group."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return value
    if isinstance(value, str) and value and "\0" not in value:
        return to_account(int(value)) if value.isascii() and value.isdecimal() else value
    raise InvalidValue(value, "expected a name or a number")
