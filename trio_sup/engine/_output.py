"""What backends write, as it comes."""

from __future__ import annotations

import attrs

from .._log_lines import Stream as Stream
from .._values import ProcessKey


@attrs.frozen
class Output:
    """One piece of what a backend wrote: arbitrary bytes, not lines."""

    key: ProcessKey
    generation: int
    stream: Stream
    data: bytes = attrs.field(repr=False)
