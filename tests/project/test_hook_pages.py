"""Every hook has a page that says what the code says, an example, and a test."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


def _hook_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hook_pages", ROOT / ".ci" / "hook_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook_pages = _hook_pages()
HOOKS: list[str] = list(hook_pages.hooks())
FILES: dict[Path, str] = hook_pages.files()
TESTS = "\n".join(
    path.read_text()
    for folder in (ROOT / "tests", *sorted((ROOT / "plugins").glob("*/tests")))
    for path in sorted(folder.rglob("*.py"))
    if path.parent != Path(__file__).parent
)

each_hook = pytest.mark.parametrize("hook", HOOKS)


def test_the_hooks_are_those_of_the_file() -> None:
    text = (ROOT / "trio_sup" / "hookspecs.py").read_text()
    assert re.findall(r"^@hookspec.*\ndef (\w+)\(", text, re.MULTILINE) == HOOKS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_made_from_the_code_is_up_to_date(path: Path) -> None:
    assert path.exists(), "run `uv run python .ci/hook_pages.py`, and write the example"
    assert path.read_text() == FILES[path], "run `uv run python .ci/hook_pages.py`"


@each_hook
def test_every_hook_has_an_example(hook: str) -> None:
    page: Path = hook_pages.page_of(hook)
    by_hand = page.read_text().partition(hook_pages.END)[2] if page.exists() else ""
    examples = re.findall(r"^```python\n(.*?)^```$", by_hand, re.MULTILINE | re.DOTALL)
    answers = any(re.search(rf"^ *def {hook}\(", example, re.MULTILINE) for example in examples)
    assert answers, f"{page} needs a block of Python that answers {hook}"


@each_hook
def test_every_hook_has_a_test(hook: str) -> None:
    tested = re.search(rf"\b{hook}\b", TESTS) is not None
    assert tested, f"no file below tests/ or plugins/*/tests uses {hook}"


def test_no_page_is_left_of_a_hook_that_is_gone() -> None:
    assert sorted(hook_pages.PAGES.glob("*")) == sorted(map(hook_pages.page_of, HOOKS))
