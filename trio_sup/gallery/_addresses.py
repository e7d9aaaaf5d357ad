"""Where indexes are: the forms an address may have, what a reference points to, and how an address is shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import InvalidValue

GITHUB = "https://raw.githubusercontent.com"
"""Where the files of GitHub repositories are, for ``github:`` addresses."""
LONGEST_REFERENCE = 1024

_BLANK = re.compile(r"[\x00-\x20\x7f-\xa0]")
_FORMS = "expected https://…, http://…, file:///… or github:owner/repository/path@branch"


def located(address: object, *, github: str = GITHUB) -> str:
    """The ``http``, ``https`` or ``file`` address that *address* means.

    ``github:owner/repository/path@branch`` (``github://…`` as well) is a file of a GitHub repository; without a
    branch, of ``main``.

    Args:
        github: Takes the place of `GITHUB`.

    Raises:
        InvalidValue: It has none of these forms.
    """
    if not isinstance(address, str) or not address or _BLANK.search(address):
        raise InvalidValue(address, _FORMS)
    try:
        parts = urlsplit(address)
        _ = parts.port  # read now: a bad one is found only on reading
    except ValueError as error:
        raise InvalidValue(shown(address), f"{_FORMS}; {error}") from None
    if parts.scheme in ("http", "https") and parts.hostname:
        return address
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return address
    if parts.scheme == "github":
        return _on_github(address, github)
    raise InvalidValue(shown(address), _FORMS)


def _on_github(address: str, github: str) -> str:
    place, _, branch = address[len("github:") :].removeprefix("//").partition("@")
    parts, branches = place.split("/"), (branch or "main").split("/")
    if len(parts) < 3 or any(part in ("", ".", "..") for part in (*parts, *branches)):
        raise InvalidValue(address, "expected github:owner/repository/path@branch")
    return "/".join([github, *map(quote, (*parts[:2], *branches, *parts[2:]))])


def is_reference(address: str) -> bool:
    """Whether the content of *address* is not an index, but the name of a file beside it."""
    return urlsplit(address).path.endswith(".ref")


def beside(address: str, content: bytes) -> str:
    """The address that a reference means: *content* names a file in, or below, the directory of *address*.

    Raises:
        InvalidValue: It is not such a name.
    """
    name = content[: LONGEST_REFERENCE + 1].decode("utf-8", "replace").strip()
    parts = name.split("/")
    if (
        len(content) > LONGEST_REFERENCE
        or _BLANK.search(name)
        or "\\" in name
        or ":" in parts[0]
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise InvalidValue(name[:80], "a .ref file must hold the name of a file beside it, and nothing else")
    base = urlsplit(address)
    return urlunsplit(base._replace(path=f"{base.path.rpartition('/')[0]}/{quote(name)}", query="", fragment=""))


def path_of(address: str) -> Path | None:
    """The path that a ``file`` address names; None for others."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def shown(address: str) -> str:
    """*address* for people and logs: without user, password and query, which may be secrets."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that cannot be read"
    query = "…" if parts.query else ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=""))
