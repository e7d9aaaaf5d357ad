"""A release, as commands show it."""

from __future__ import annotations

from typing import Any

import attrs

from .._releases import Release


def called(release: Release) -> str:
    """Its name, its version, and what it stands for: ``"chat 1.2 (cpu-chat)"``."""
    parts = [release.name, release.metadata.version or ""]
    if release.concrete is not None and release.concrete != release.name:
        parts.append(f"({release.concrete})")
    return " ".join(filter(None, parts))


def document(release: Release) -> dict[str, Any]:
    """As a table of a JSON document."""
    return {
        "name": release.name,
        "kind": release.kind,
        "concrete": release.concrete,
        "directory": str(release.directory) if release.directory is not None else None,
        "system": release.system,
        "problem": release.problem,
        **{f: v for f, v in attrs.asdict(release.metadata).items() if f not in ("name", "meta_backend_for")},
    }
