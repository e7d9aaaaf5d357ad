"""The `trio-sup` command: configuration, command line, and what it runs."""

from __future__ import annotations

from ._cli import command_line

__all__ = ["command_line"]
