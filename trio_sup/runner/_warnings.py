"""What is told on stderr, and does not stop a command."""

from __future__ import annotations

import sys


def warn(text: str) -> None:
    """Tell it, as something that does not stop the command."""
    print(f"trio-sup: warning: {text}", file=sys.stderr, flush=True)
