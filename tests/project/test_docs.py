"""The documentation is true: what it shows is run, what it lists is compared with the code, where it points is there.

How a page is followed is told in `following`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import attrs
import pytest
import trio

import trio_sup
import trio_sup.backends
import trio_sup.bridge
import trio_sup.gallery
import trio_sup.testing
from tests.gallery.releases import write_release
from tests.project.following import BLOCK, INSTALLS_ITSELF, Reader, blocks, commands
from trio_sup import Gallery, Liveness, LogSettings, Readiness, UnpackLimits, events, strategies
from trio_sup.engine._plugins import Kind, Plugins
from trio_sup.runner._config import interpret
from trio_sup.runner._gallery_config import GalleriesTable
from trio_sup.runner._settings import ConfiguredBackend, Group, Settings
from trio_sup.testing import contracts, plugin

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TAUGHT = [
    page
    for page in PAGES
    if page.parent.name not in ("explanation", "docs") and not INSTALLS_ITSELF.search(page.read_text())
]
# They build a gallery, from packages that may have to be downloaded, and type many commands.
WITH_GALLERIES = [page for page in TAUGHT if "tests.gallery.example.build" in page.read_text()]
WITH_CONTRACTS = [page for page in TAUGHT if "trio_sup.testing.contracts import" in page.read_text()]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


# ---- what is shown is run


def test_pages_with_contracts_are_among_those_followed() -> None:
    assert len(WITH_CONTRACTS) >= 3


@pytest.mark.usefixtures("nothing_survives")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.parent.name == "howto" else [])
        for page in TAUGHT
        if page not in WITH_GALLERIES
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
async def test_what_a_page_shows_can_be_followed_step_by_step(page: Path, tmp_path: Path) -> None:
    await follow(page, tmp_path, hurries=page in WITH_CONTRACTS)


@pytest.mark.slow
@pytest.mark.needs("uv")
@pytest.mark.usefixtures("nothing_survives")
@pytest.mark.parametrize("page", WITH_GALLERIES, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_what_a_page_shows_of_galleries_can_be_followed_as_well(page: Path, tmp_path: Path) -> None:
    await follow(page, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_survives")
@pytest.mark.parametrize("page", WITH_CONTRACTS, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_the_contracts_on_a_page_pass_as_well(page: Path, tmp_path: Path) -> None:
    await follow(page, tmp_path)


async def follow(page: Path, tmp_path: Path, *, hurries: bool = False) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRIO_SUP_", "PYTEST_"))}
    environment = {
        **kept,
        "TRIO_SUP_TREE": os.environ["TRIO_SUP_TREE"],
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONWARNINGS": "error",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    folder = tmp_path / "folder"
    folder.mkdir()
    if page in WITH_GALLERIES:  # it is followed in a checkout
        (folder / "tests").symlink_to(ROOT / "tests")
    with trio.fail_after(180):  # a busy machine is not a wrong page
        await Reader(folder, environment, hurries=hurries).follow(page)


@each_page
def test_every_configuration_shown_can_be_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.file is not None:
            file = tmp_path / block.file
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
        for command in commands(block) if block.language in ("console", "bash") else ():
            if command.line.startswith("mkdir "):
                for folder in command.line.split()[1:]:
                    (tmp_path / folder).mkdir(exist_ok=True)
    plugins = Plugins(plugins_shown(page, tmp_path, monkeypatch))
    for block in blocks(page):
        if block.language == "toml":
            table = tomllib.loads(block.text)
            if block.file == "pyproject.toml":
                continue
            table.setdefault("backends", {"vectors": {"command": [sys.executable]}})
            if token_file := table.get("token_file"):
                (tmp_path / token_file).write_text("secret")
            for backend in table["backends"].values():
                if "release" in backend:  # as if the reader had installed it
                    write_release(tmp_path / table["galleries"]["backends_dir"] / backend["release"])
            interpret(table, tmp_path / "trio-sup.toml", {}, plugins)


def plugins_shown(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The modules of *page* that answer hooks, as they are in *folder*."""
    shown = [block for block in blocks(page) if block.language == "python" and block.file is not None]
    files = dict.fromkeys(
        Path(str(block.file)) for block in shown if re.search(r"^@.*hookimpl", block.text, re.MULTILINE)
    )
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    monkeypatch.syspath_prepend(folder)
    modules = []
    for name in names:
        modules.append(importlib.import_module(name))
        # Another page may have one of the same name.
        monkeypatch.delitem(sys.modules, name)
    return modules


@each_page
def test_every_block_of_python_can_be_compiled(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec", dont_inherit=True)


@each_page
def test_every_block_says_its_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {"python", "toml", "console", "bash", "text", "json", "env"}


# ---- where it points is there


def anchors(page: Path) -> set[str]:
    text = BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("https://", "http://")):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@each_page
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    assert page.name == "README.md" or f"({page.relative_to(ROOT).as_posix()})" in PAGES[0].read_text()


@each_page
def test_a_line_holds_one_sentence(page: Path) -> None:
    prose = [line for line in BLOCK.sub("", page.read_text()).splitlines() if not line.startswith("|")]
    assert [line for line in prose if re.search(r"[.!?] [A-Z`]", line)] == []


# ---- what it lists is what there is


def sections(page: str, level: int) -> dict[str, str]:
    """The text below each heading of *level*, by heading."""
    parts = re.split(rf"^{'#' * level} (.+)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    ended = [re.split(rf"^{'#'}{{1,{level}}} ", part, maxsplit=1, flags=re.MULTILINE)[0] for part in parts]
    return dict(zip(parts[1::2], ended[2::2], strict=True))


def options(section: str) -> dict[str, str]:
    """The shown default of each key in the table of *section*."""
    return dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", section, re.MULTILINE))


def compare(shown: Mapping[str, str], fields: Sequence[attrs.Attribute[Any]]) -> None:
    """Compare shown defaults with those of *fields*: code is a TOML value, and prose stands for None."""
    assert list(shown) == [field.name for field in fields]
    for field in fields:
        text = shown[field.name]
        if field.default is attrs.NOTHING:
            assert text == "required", field.name
            continue
        factory = getattr(field.default, "factory", None)
        default = factory() if factory else field.default
        if not text.startswith("`"):
            assert text != "required", field.name
            assert default is None, field.name
            continue
        value = tomllib.loads(f"value = {text.strip('`')}")["value"]
        if isinstance(default, (LogSettings, Readiness, UnpackLimits)):
            assert type(default)(**value) == default
            continue
        convert: Any = field.converter or (lambda value: value)
        assert convert(value) == convert(default), field.name


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("Top of the file", Settings),
        ("`[backends.NAME]`", ConfiguredBackend),
        ("`[backends.NAME.readiness]`", Readiness),
        ("`[backends.NAME.liveness]`", Liveness),
        ("`[groups.NAME]`", Group),
        ("`[backends.NAME.logs]`", LogSettings),
        ("`[galleries]`", GalleriesTable),
        ("`[[galleries.index]]`", Gallery),
        ("`[galleries.limits]`", UnpackLimits),
    ],
)
def test_every_key_of_the_configuration_is_listed_with_its_default(heading: str, cls: Any) -> None:
    listed = options(sections("reference/configuration.md", 2)[heading])
    # The name of a backend is that of its table.
    compare(listed, [field for field in attrs.fields(cls) if field.name != "name" or cls is Gallery])


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_strategy_is_listed_with_its_options(kind: Kind) -> None:
    page = DOCS / "reference" / "strategies.md"
    listed = page.read_text().partition(f"\n## {_plural(kind)}\n")[2].partition("\n## ")[0]
    headings = re.findall(r"^### `([\w-]+)`$", listed, re.MULTILINE)
    offered = Plugins().offered(kind)
    assert headings == list(offered)
    for name, factory in offered.items():
        assert isinstance(factory, type)
        section = listed.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
        compare(options(section), [field for field in attrs.fields(factory) if field.init])


def _plural(kind: str) -> str:
    return f"{kind.capitalize()}s".replace("ys", "ies")


def members(thing: Any) -> set[str]:
    """What the reference must name of a public class or function."""
    if inspect.isfunction(thing):
        return set(inspect.signature(thing).parameters)
    if issubclass(thing, BaseException) and not attrs.has(thing):
        return set()
    if attrs.has(thing):
        return {field.alias or field.name for field in attrs.fields(thing)}
    if hasattr(thing, "__members__"):
        return set(thing.__members__)
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_reference_names_what_public_names_consist_of() -> None:
    found = sections("reference/api.md", 3)
    for name in trio_sup.__all__:
        thing = getattr(trio_sup, name)
        if not isinstance(thing, type) and not inspect.isfunction(thing):
            continue
        own = {*members(thing)}
        if isinstance(thing, type) and issubclass(thing, trio_sup.StartFailed) and thing is not trio_sup.StartFailed:
            own -= members(trio_sup.StartFailed)
        words = set(re.findall(r"\w+", found[f"`{name}`"]))
        assert own <= words, name


def shown_signature(function: Callable[..., Any], *, bound: bool = False) -> str:
    """How the reference writes the parameters of *function*."""
    parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    words = {repr(os.environ): "os.environ", "mappingproxy({})": "{}"}
    shown = []
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        default = repr(each.default).replace("'", '"')
        for value, word in words.items():
            default = default.replace(value.replace("'", '"'), word)
        shown.append(each.name if each.default is each.empty else f"{each.name}={default}")
    return ", ".join(shown)


@pytest.mark.parametrize("name", ["open_supervisor", "load_plugins"])
def test_a_function_is_shown_with_its_parameters(name: str) -> None:
    section = sections("reference/api.md", 3)[f"`{name}`"]
    block = re.search(rf"\b{name}\((.*?),?\s*\)(?: as .*)?\n```", section, re.DOTALL)
    assert block is not None
    assert " ".join(block[1].split()) == shown_signature(getattr(trio_sup, name))


def test_every_method_of_the_supervisor_is_shown_with_its_parameters() -> None:
    headings = sections("reference/api.md", 4)
    methods = {name: thing for name, thing in inspect.getmembers(trio_sup.Supervisor) if not name.startswith("_")}
    expected = set()
    for name, thing in methods.items():
        if isinstance(thing, property):
            expected.add(f"`{name}`")
            continue
        waits = "await " if inspect.iscoroutinefunction(thing) else ""
        if inspect.isasyncgenfunction(inspect.unwrap(thing)):
            waits = "async with "
        expected.add(f"`{waits}{name}({shown_signature(thing, bound=True)})`")
    assert set(headings) == expected


def test_every_event_is_listed_with_its_fields() -> None:
    classes = {
        name: cls for name, cls in vars(events).items() if isinstance(cls, type) and cls.__module__ == events.__name__
    }
    found = sections("reference/events.md", 3)
    assert list(found) == [f"`{name}`" for name in classes]
    for name, cls in classes.items():
        own = {field.name for field in attrs.fields(cls) if not field.inherited}
        assert own <= set(re.findall(r"`(\w+)`", found[f"`{name}`"])), name


def test_every_help_for_options_is_listed() -> None:
    section = sections("reference/hooks.md", 2)["Options"]
    helps = [name for name, thing in vars(strategies).items() if inspect.isfunction(thing)]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(helps)


def test_every_name_of_the_other_modules_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "reference").rglob("*.md"))
    for module in (trio_sup.testing, trio_sup.gallery, trio_sup.bridge, trio_sup.backends):
        assert set(module.__all__) <= set(re.findall(r"`(\w+)`", pages)), module.__name__


@pytest.mark.parametrize("name", ["FakeBackend", "scripted_backend"])
def test_every_behaviour_of_the_testing_kit_is_listed_with_its_default(name: str) -> None:
    section = sections("reference/testing.md", 3)[f"`{name}`"]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))
    parameters = inspect.signature(getattr(trio_sup.testing, name)).parameters.values()
    given = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
    assert list(listed) == list(given)
    for option, shown in listed.items():
        if shown.startswith("`"):
            assert shown == f"`{given[option]!r}`", option


def test_every_fixture_and_contract_is_listed() -> None:
    found = sections("reference/testing.md", 2)
    fixtures = re.findall(r"^@pytest.fixture\n(?:async )?def (\w+)", inspect.getsource(plugin), re.MULTILINE)
    for heading, names in (("Fixtures", fixtures), ("Contracts", contracts.__all__)):
        assert sorted(re.findall(r"^\| `(\w+)` \|", found[heading], re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize(
    "command",
    [
        "run", "check", "why", "demo", "plugins",
        "gallery list", "gallery search", "gallery show", "install", "upgrade", "delete", "backends",
    ],
)  # fmt: skip
def test_every_option_of_a_command_is_listed(command: str) -> None:
    arguments = [sys.executable, "-m", "trio_sup", *command.split(), "--help"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=30).stdout
    section = sections("reference/command-line.md", 2)[f"`trio-sup {command}`"]
    listed = set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE))
    assert listed == set(re.findall(r"^│ (--[\w-]+)", said, re.MULTILINE))
