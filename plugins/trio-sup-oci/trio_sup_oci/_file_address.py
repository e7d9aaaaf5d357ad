"""Addresses of image files: ``ocifile:///path@sha256:…``."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from trio_sup import InvalidValue

from ._reference import DIGEST

_PINNED = re.compile(rf"(.*)@({DIGEST.pattern})", re.DOTALL)
_OTHER_DIGEST = re.compile(r"@sha\d+:[^/]*$")


@attrs.frozen
class FileAddress:
    """Where an image file is.

    Attributes:
        path: A file, or the directory of an OCI layout.
        digest: ``sha256:…`` that the image in it must have; None if it is not pinned.
    """

    path: Path
    digest: str | None


def parse_address(uri: str) -> FileAddress:
    """Read an address; what stands there is the path as it is, without any escapes.

    Raises:
        InvalidValue: It is no absolute path.
    """
    text = uri.removeprefix("ocifile://")
    match = _PINNED.fullmatch(text)
    if match is None and _OTHER_DIGEST.search(text):
        raise InvalidValue(uri, "after @ comes a digest: sha256: and 64 hex digits in lower case")
    path = Path(match[1] if match else text)
    if not path.is_absolute() or "\0" in text:
        raise InvalidValue(uri, "expected ocifile:// and an absolute path: ocifile:///srv/images/name.tar")
    return FileAddress(path, match[2] if match else None)
