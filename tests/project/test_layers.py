"""Lower layers never import higher ones, and only the bridge speaks asyncio."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / "trio_sup"

LAYERS = [
    {
        "errors",
        "events",
        "hookspecs",
        "strategies",
        "protocol",
        "_gallery_errors",
        "_lazy",
        "_log_lines",
        "_options",
        "_phases",
        "_releases",
        "_reports",
        "_report_tables",
        "_units",
        "_values",
        "_wording",
    },
    {
        "_backlog",
        "_dependencies",
        "_exit_files",
        "_line_splitter",
        "_port_pool",
        "_progress",
        "_resolution",
        "_restart_schedule",
        "_restarts",
        "_room",
        "_structuring",
        "guard",
    },
    {"gallery"},
    {"bridge", "defaults"},
    {"engine"},
    {"testing"},
    {"runner", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

FILES = sorted(path for path in ROOT.rglob("*.py") if not path.name.endswith("_pb2.py"))


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path: Path) -> set[str]:
    """Absolute names of what a file imports when it runs (not what only the type checker reads)."""
    package = ["trio_sup", *(module_of(path) if path.name == "__init__.py" else module_of(path)[:-1])]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{start}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_lower_ones(path: Path) -> None:
    module = module_of(path)
    if not module:
        return  # the package itself loads its public names lazily
    own = module[0]
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "trio_sup" or len(parts) < 2 or parts[1] == own or parts[1] not in RANK:
            continue
        if own == "backends":
            assert parts[1] == "protocol", f"a backend process needs no more than the protocol, not {name}"
            continue
        assert RANK[parts[1]] <= RANK[own], f"{own} imports {name}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_bridge_and_backend_processes_speak_asyncio(path: Path) -> None:
    if module_of(path)[:1] in (["bridge"], ["backends"]):
        return
    assert not {name.split(".")[0] for name in imports_of(path)} & {"asyncio", "grpclib", "trio_asyncio"}


@pytest.mark.parametrize("path", sorted((ROOT / "guard").glob("*.py")), ids=lambda path: path.name)
def test_the_guards_need_only_the_standard_library(path: Path) -> None:
    import sys

    for name in imports_of(path):
        assert name.split(".")[0] in {*sys.stdlib_module_names, "trio_sup"}
        if name.startswith("trio_sup"):
            assert name.split(".")[1] == "guard"


# ---- the map


MAP = (ROOT.parent / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("package", ["engine", "gallery"])
def test_every_file_of_a_package_is_on_the_map(package: str) -> None:
    rooms = MAP.partition(f"\n## The {package}, room by room\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(_\w+\.py)`", "".join(re.findall(r"^\| (.+?) \|", rooms, re.MULTILINE)))
    assert sorted(named) == sorted(path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py")


def test_every_test_on_the_map_is_there() -> None:
    there = {path.name for path in (ROOT.parent / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", MAP)) <= there
