"""Throw-away distributions: a module and the metadata that makes its entry point known."""

from __future__ import annotations

from pathlib import Path

from tests.runner.running import environment

POLICY = """
import attrs
from trio_sup import hookimpl
from trio_sup.defaults._stop_policies import Terminate

@attrs.frozen
class Gently(Terminate):
    patience: int = 3

@hookimpl
def trio_sup_stop_policies():
    return {"gently": Gently}
"""
"""The source of a plugin that offers the stop policy ``gently``."""


def install(folder: Path, name: str, source: str, *, version: str = "1.2", entry: str | None = None) -> None:
    """Make the distribution ``trio-sup-NAME`` in *folder*, which is to be on the path of the process that finds it.

    Args:
        source: The text of its module, which is called ``NAME_plugin``.
        entry: Name of its entry point, by default *name*.
    """
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_plugin.py").write_text(source)
    info = folder / f"trio_sup_{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trio-sup-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[trio_sup]\n{entry or name} = {name}_plugin\n")


def environment_with(tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of a process that finds what was installed in ``tmp_path / "site"``."""
    return environment(tmp_path, PYTHONPATH=str(tmp_path / "site"), PYTHONDONTWRITEBYTECODE="1", **more)
