"""What a server asks for with 401: the challenges of ``WWW-Authenticate``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

# Source: RFC 9110, 5.6.2 (token), 5.6.4 (quoted-string), 11.2 (token68, auth-param), 11.6.1.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+(?:[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$))?|(?=[ \t]*(?:,|$)))")
_SEPARATOR = re.compile(r"[ \t]*,[ \t,]*")
LONGEST = 16 * 1024
"""Characters of headers that are looked at."""


@attrs.frozen
class Challenge:
    """One way to authenticate that a server offers.

    Attributes:
        scheme: In lower case: ``basic``, ``bearer``.
        parameters: By name, in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read all challenges of the headers called ``WWW-Authenticate``; what cannot be read ends its header."""
    return tuple(challenge for header in headers for challenge in _challenges(header[:LONGEST]))


def _challenges(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = len(header) - len(header.lstrip(" \t,"))
    while position < len(header):
        # A parameter belongs to the scheme before it; a word without = is a new scheme.
        if found and (match := _PARAMETER.match(header, position)):
            value = match[2] if match[2] is not None else re.sub(r"\\(.)", r"\1", match[3])
            found[-1][1].setdefault(match[1].lower(), value)
        elif match := _SCHEME.match(header, position):
            found.append((match[1].lower(), {}))
        else:
            break
        position = match.end()
        if separator := _SEPARATOR.match(header, position):
            position = separator.end()
    return [Challenge(scheme, parameters) for scheme, parameters in found]
