"""Types of options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative="")]
All = Annotated[bool, Parameter(name=["--all", "-a"], negative="")]
ConfigFile = Annotated[Path, Parameter(name=["--config", "-c"])]
PluginOption = Annotated[
    tuple[str, ...],
    Parameter(name=["--plugin", "-p"], negative="", consume_multiple=False, show_default=False),
]
