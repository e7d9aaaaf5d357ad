"""What people and galleries write where a backend is to come from: a name, or an address of some kind."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import attrs

from .._releases import check_release_name
from ..errors import InvalidValue
from ._addresses import located, shown

ARCHIVE_SUFFIXES = (
    ".tar.gz", ".tar.xz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tgz", ".txz", ".tzst", ".tbz2", ".tar",
)  # fmt: skip
KNOWN_REGISTRIES = ("docker.io", "ghcr.io", "quay.io")
"""References that begin so are images, whatever else they look like. Source: spec 7.8."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# owner/name:tag, owner/name@sha256:…, and deeper ones; without a registry it is Docker Hub's.
_HUB_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)+(?::[\w][\w.-]*)?(?:@sha256:[0-9a-f]{64})?", re.A
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCAL = ("dir", "file", "ocifile")


@attrs.frozen
class Address:
    """Where a release is fetched from.

    Attributes:
        scheme: Of *uri*, in lower case; says which source fetches it.
    """

    scheme: str
    uri: str


def address_of(what: str, *, here: Path | None = None) -> Address | None:
    """The address that *what* means; None if it can only be the name of a gallery's backend.

    A path to an existing directory or file (a bare word only for a file), ``scheme://…``, ``github:…``, or a reference
    to an image: ``quay.io/owner/name:tag``, ``host:5000/name``, ``owner/name:tag`` (which is Docker Hub's).

    Args:
        here: Where relative paths begin; None refuses them, and ``~``.

    Raises:
        InvalidValue: It is nothing of the kind, or a path where nothing is.
    """
    if not isinstance(what, str) or not what or what != what.strip() or not what.isprintable():
        raise InvalidValue(what, "expected the name of a backend, or the address of one")
    if match := _SCHEME.match(what):
        return _with_scheme(match[1].lower(), what[match.end() :], what, here)
    if what.startswith("github:"):
        return Address("https", located(what))
    if what.startswith(("/", "./", "../", "~")) or what in (".", ".."):
        return _at_path(what, here)
    if here is not None:
        path = here / what
        if path.is_file() or ("/" in what and path.is_dir()):
            return _at_path(what, here)
    if _is_image(what):
        first = what.partition("/")[0]
        return Address("oci", f"oci://{what}" if _names_a_host(first) else f"oci://docker.io/{what}")
    if here is not None and what.endswith(ARCHIVE_SUFFIXES):
        raise InvalidValue(what, "there is no such file")
    return None


def _with_scheme(scheme: str, rest: str, what: str, here: Path | None) -> Address:
    if not rest:
        raise InvalidValue(what, "the address ends where it should begin")
    if scheme == "github":
        return Address("https", located(f"github://{rest}"))
    if scheme in _LOCAL:
        # An address of a file may name this machine. What is no escape stays as it is.
        path = rest if scheme == "ocifile" else unquote(rest.removeprefix("localhost") if "/" in rest else rest)
        return Address(scheme, uri_of_path(scheme, _absolute(path, what, here)))
    return Address(scheme, f"{scheme}://{rest}")


def _at_path(what: str, here: Path | None) -> Address:
    path = _absolute(what, what, here)
    if path.is_dir():
        return Address("dir", uri_of_path("dir", path))
    if path.is_file():
        return Address("file", uri_of_path("file", path))
    raise InvalidValue(
        what, "there is no such file or directory" if not path.exists() else "it is no file or directory"
    )


def _absolute(text: str, what: str, here: Path | None) -> Path:
    if here is None:
        if not text.startswith("/"):
            raise InvalidValue(what, "a path must be absolute here")
        return Path(text)
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise InvalidValue(what, "there is no home directory of that user") from None
    return here / path


def uri_of_path(scheme: str, path: Path) -> str:
    """The address of a local path."""
    return f"{scheme}://{path if scheme == 'ocifile' else quote(str(path))}"


def _is_image(what: str) -> bool:
    first, slash, rest = what.partition("/")
    if not slash or not rest:
        return False
    if first in KNOWN_REGISTRIES or _names_a_host(first):
        return True
    return _HUB_IMAGE.fullmatch(what) is not None and (":" in what or "@" in what)


def _names_a_host(first: str) -> bool:
    return "@" not in first and (first == "localhost" or "." in first or ":" in first)


def default_name(address: Address) -> str:
    """What a release from *address* is called if nobody says otherwise: the base name of a directory, the name of a
    file without the endings of archives. Source: spec 7.8.

    Raises:
        InvalidValue: The address gives no name, or none that a release may have.
    """
    name = ""
    if address.scheme == "dir":
        name = Path(unquote(urlsplit(address.uri).path)).resolve().name
    elif address.scheme in ("file", "http", "https"):
        name = _without_suffix(unquote(urlsplit(address.uri).path).rpartition("/")[2])
    elif address.scheme == "ocifile":
        file = re.sub(r"@sha256:[0-9a-f]{64}$", "", address.uri).rpartition("/")[2]
        name = _without_suffix(file)
        if name == file and not name.startswith("."):
            name = file.rpartition(".")[0] or file
    if not name:
        raise InvalidValue(in_words(address.uri), "say what it is to be called (name); its address does not tell")
    try:
        return check_release_name(name)
    except InvalidValue as error:
        raise InvalidValue(name, f"say what it is to be called (name); its address gives none: {error.why}") from None


def _without_suffix(file: str) -> str:
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if file.lower().endswith(suffix)), "")
    return file[: len(file) - len(suffix)]


def in_words(uri: str) -> str:
    """*uri* for people: of local ones the path, of others no secrets."""
    scheme, _, rest = uri.partition("://")
    if scheme in _LOCAL:
        return rest if scheme == "ocifile" else unquote(rest)
    return shown(uri)


def to_record(uri: str) -> str:
    """*uri* as it is recorded in a file that others may read: a directory's as its path, which LocalAI understands;
    others without user and password."""
    parts = urlsplit(uri)
    if parts.scheme == "dir":
        return unquote(parts.path)
    if "@" in parts.netloc and parts.scheme not in ("oci", "ocifile"):
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return uri


def to_sha256(value: str | None) -> str | None:
    """A digest as 64 hex digits in lower case; ``sha256:`` may stand before them.

    Raises:
        InvalidValue: It is none.
    """
    if value is None:
        return None
    digits = value.strip().lower().removeprefix("sha256:") if isinstance(value, str) else ""
    if not _SHA256.fullmatch(digits):
        raise InvalidValue(value, "sha256: expected 64 hex digits")
    return digits
