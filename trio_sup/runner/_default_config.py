"""Which configuration file is meant if none is named."""

from __future__ import annotations

from pathlib import Path

DEFAULT_CONFIG = Path("trio-sup.toml")
