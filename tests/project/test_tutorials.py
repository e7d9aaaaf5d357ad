"""The tutorials from their first line to their last: nothing is left out, and nothing was prepared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trio

from tests.project.following import Reader, blocks

ROOT = Path(__file__).parent.parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
FIRST_PLUGIN = ROOT / "docs" / "tutorial" / "your-first-plugin.md"
EXAMPLE = ROOT / "plugins" / "trio-sup-example"

WHAT_IS_INSTALLED = """
import json, trio_sup, trio_sup_hangup
loaded = [[plugin.name, plugin.distribution, plugin.version] for plugin in trio_sup.load_plugins().plugins]
print(json.dumps({"files": [trio_sup.__file__, trio_sup_hangup.__file__], "plugins": loaded}))
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Somebody in an empty folder beside the checkout, who has none of the programs of this environment."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "trio-sup").symlink_to(ROOT)
    ours = Path(sys.executable).parent
    unwanted = ("TRIO_SUP_", "PYTEST_", "PYTHON", "VIRTUAL_ENV")
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry) != ours]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(unwanted)},
        "TRIO_SUP_TREE": os.environ["TRIO_SUP_TREE"],
        "PATH": os.pathsep.join(path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "UV_CONSTRAINT": str(ROOT / "constraints.txt"),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    return Reader(folder, environment, sets_up=True)


@pytest.mark.slow
@pytest.mark.needs("uv")
@pytest.mark.usefixtures("nothing_survives")
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda page: page.stem)
async def test_a_tutorial_can_be_followed_from_an_empty_folder(tutorial: Path, reader: Reader) -> None:
    beside_the_checkout = reader.folder
    with trio.fail_after(500):
        await reader.follow(tutorial)
    if tutorial == FIRST_PLUGIN:
        elsewhere = beside_the_checkout / "elsewhere"
        said = subprocess.run(
            [elsewhere / "bin" / "python", "-c", WHAT_IS_INSTALLED],
            cwd=beside_the_checkout, env=reader.environment, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        found = json.loads(said)
        assert all(Path(file).is_relative_to(elsewhere) for file in found["files"])
        assert found["plugins"] == [["hangup", "trio-sup-hangup", "0.1.0"]]


def at_last(file: str) -> str:
    """What is in *file* when the tutorial is over, without the line that names it, as the finished plugin has it."""
    text = [block.text for block in blocks(FIRST_PLUGIN) if block.file == file][-1]
    return text.partition("\n")[2].replace("trio_sup_hangup", "trio_sup_example")


def test_the_plugin_of_the_tutorial_is_the_finished_one() -> None:
    assert at_last("trio_sup_hangup/__init__.py") == (EXAMPLE / "trio_sup_example" / "__init__.py").read_text()
    assert at_last("tests/test_contract.py") == (EXAMPLE / "tests" / "test_hang_up_first_contract.py").read_text()


def test_the_package_of_the_tutorial_is_built_like_the_finished_one() -> None:
    finished = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    ours = tomllib.loads(at_last("pyproject.toml"))
    for key in ("version", "requires-python", "dependencies"):
        assert ours["project"][key] == finished["project"][key]
    modules = [list(table["project"]["entry-points"]["trio_sup"].values()) for table in (ours, finished)]
    assert modules[0] == modules[1]
    assert ours["build-system"] == finished["build-system"]
    assert ours["tool"]["uv"] == finished["tool"]["uv"]
