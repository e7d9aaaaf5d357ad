"""The file ``metadata.json`` of a release, as LocalAI writes it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs

from .._releases import Metadata, check_release_name
from ..errors import InvalidValue
from ._plain_file import read_plain_file

METADATA_FILE = "metadata.json"
MOST_BYTES = 2**20
"""More is no metadata."""

_KEYS = tuple(field.name for field in attrs.fields(Metadata))
_NAMES = ("alias", "meta_backend_for")


@attrs.frozen
class Recorded:
    """What was found in the file; *problem* says in words what of it could not be read."""

    metadata: Metadata = attrs.field(factory=Metadata)
    problem: str | None = None
    missing: bool = False


def read_metadata(directory: Path) -> Recorded:
    """Read the file in *directory*; a missing one is no problem. Unknown keys are passed over. Never raises for what
    stands in it."""
    path = directory / METADATA_FILE
    try:
        content, _ = read_plain_file(path, MOST_BYTES)
        table = json.loads(content)
    except FileNotFoundError:
        return Recorded(missing=True)
    except OSError as error:
        return Recorded(problem=f"{METADATA_FILE} cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        return Recorded(problem=f"{METADATA_FILE} is not JSON: {error}")
    if not isinstance(table, dict):
        return Recorded(problem=f"{METADATA_FILE} holds no table")
    fields: dict[str, str] = {}
    problems: list[str] = []
    for key in _KEYS:
        value = table.get(key)
        if value is None or value == "":
            continue
        why = _complaint(key, value)
        if why is None:
            fields[key] = value
        else:
            problems.append(f"{key}: {why}")
    problem = f"{METADATA_FILE}: {'; '.join(problems)}" if problems else None
    return Recorded(Metadata(**fields), problem)


def _complaint(key: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return "expected text"
    if key in _NAMES:
        try:
            check_release_name(value)
        except InvalidValue as error:
            return error.why
    return None if value.isprintable() else "it has characters that cannot be shown"


def write_metadata(directory: Path, metadata: Metadata) -> None:
    """Write the file in *directory*, in place of whatever is called so there.

    Raises:
        OSError: It cannot be written.
    """
    path = directory / METADATA_FILE
    # An archive may have brought anything of this name: a link out of here, for example.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    table = {key: value for key in _KEYS if (value := getattr(metadata, key))}
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(opened, "w", encoding="utf-8") as file:
        os.fchmod(opened, 0o644)
        json.dump(table, file, indent=2)
