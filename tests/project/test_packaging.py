"""What the repository promises about itself."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import trio_sup

ROOT = Path(__file__).parent.parent.parent


def test_constraints_and_project_pin_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # A marker stands only where Pythons need different versions.
    pins = {pin.partition(" ;")[0] for pin in project["tool"]["uv"]["constraint-dependencies"]}
    exported = re.findall(r"^([\w.-]+==[\w.!+-]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pins == set(exported)


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    pinned = {pin.partition("==")[0] for pin in project["tool"]["uv"]["constraint-dependencies"]}
    assert {re.match(r"[\w-]+", name)[0] for name in direct if isinstance(name, str)} <= pinned  # type: ignore[index]


def test_no_tracked_file_names_a_registry_or_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in tracked.stdout.split("\0") if name]
    assert "uv.lock" not in names
    own = Path(__file__).relative_to(ROOT).as_posix()
    for name in names:
        text = (ROOT / name).read_bytes() if (ROOT / name).is_file() and name != own else b""
        assert not re.search(rb"pythonhosted\.org|pypi\.org/simple|/root/|/home/\w+/", text), name


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == trio_sup.__version__


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert trio_sup.__all__ == sorted(trio_sup.__all__)
    for name in trio_sup.__all__:
        assert getattr(trio_sup, name).__doc__, name


def test_every_public_name_has_its_place_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    documented = set(re.findall(r"^### `([\w.]+)`", reference, re.MULTILINE))
    assert documented == set(trio_sup.__all__)
