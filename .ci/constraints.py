"""Pin every dependency anew: rewrites `constraint-dependencies` in pyproject.toml and constraints.txt.

Run by hand, `uv run --no-sync python .ci/constraints.py`, to take newer versions; commit both files.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
BLOCK = re.compile(r"constraint-dependencies = \[\n.*?\]\n", re.DOTALL)


def export(*options: str) -> str:
    command = ["uv", "export", "--quiet", "--all-groups", "--all-extras", "--all-packages", "--no-emit-workspace"]
    command += ["--no-header", "--no-annotate", *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def pins_of(exported: str) -> list[str]:
    """The pins, without markers: for whom a package is needed is said elsewhere.

    Only where Pythons need different versions do the markers tell which is whose.
    """
    lines = [line.strip() for line in exported.splitlines() if line]
    names = [line.partition("==")[0] for line in lines]
    return [
        line if names.count(name) > 1 else line.partition(" ;")[0].strip()
        for line, name in zip(lines, names, strict=True)
    ]


def main() -> None:
    text = PYPROJECT.read_text()
    PYPROJECT.write_text(BLOCK.sub("constraint-dependencies = [\n]\n", text))
    subprocess.run(["uv", "lock", "--quiet", "--upgrade"], cwd=ROOT, check=True)
    lines = "".join(f'    "{pin}",\n' for pin in sorted(pins_of(export("--no-hashes"))))
    PYPROJECT.write_text(BLOCK.sub(f"constraint-dependencies = [\n{lines}]\n", text))
    (ROOT / "constraints.txt").write_text("# Made by .ci/constraints.py from pyproject.toml; do not edit.\n" + export())


if __name__ == "__main__":
    main()
