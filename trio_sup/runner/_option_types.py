"""Types of options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative="")]
ConfigFile = Annotated[Path, Parameter(name=["--config", "-c"])]
PluginOption = Annotated[
    tuple[str, ...],
    Parameter(name=["--plugin", "-p"], negative="", consume_multiple=False, show_default=False),
]
