"""What commands tell people on stderr."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Tell it on stderr, so that stdout has results only."""
    print(f"trio-sup: {text}", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell it, as something that does not stop the command."""
    say(f"warning: {text}")
