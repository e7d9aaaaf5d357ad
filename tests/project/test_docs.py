"""The documentation is true: what it shows is run, what it lists is compared with the code, where it points is there.

A block whose first line is a comment with a file name is written to that file; any other Python block is a program.
The blocks of a page are followed in order, in one folder. In a `console` block, lines after ``$ `` are commands, ``^C``
is a Ctrl-C, and the rest is what is shown: numbers may differ, ``…`` stands for anything.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
import trio

import trio_sup
from trio_sup import Readiness, events, hookspecs
from trio_sup.engine._plugins import Kind, Plugins
from trio_sup.runner._config import ConfiguredBackend, Settings, interpret

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TAUGHT = [page for page in PAGES if page.parent.name not in ("explanation", "docs")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

PREPARES_THE_MACHINE = re.compile(r"(git clone|mkdir|cd|uv venv|uv pip install|uv run pytest)\b")
"""Commands for the reader alone: here everything is set up, or running them would not end."""

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# A warning about the machine, not about the page.
_BUSY = re.compile(r"^(trio-sup \|.*)?plugin .* took .*; everything else waited$")
_FILE_NAME = re.compile(r"(?:#|\"\"\") ?([\w.-]+\.\w+)$", re.MULTILINE)


@attrs.frozen
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that its first line says it is."""
        match = _FILE_NAME.match(self.text)
        return match[1] if match else None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        yield Block(language, "".join(lines), text.count("\n", 0, match.start()) + 1)


# ---- what is shown is run


@attrs.define
class Command:
    """One command of a console block.

    Attributes:
        shown: What it prints, up to the Ctrl-C if there is one.
        shown_after: What it prints after that; None if there is none.
        status: The exit status it must have.
    """

    line: str
    shown: list[str] = attrs.field(factory=list)
    shown_after: list[str] | None = None
    status: int = 0

    def note(self, line: str) -> None:
        if line == "^C":
            self.shown_after = []
        else:
            (self.shown if self.shown_after is None else self.shown_after).append(line)


def commands(block: Block) -> list[Command]:
    """The commands of a `console` or `bash` block that can be run here."""
    found: list[Command] = []
    asks_status = False
    for line in block.text.splitlines():
        command = line if block.language == "bash" else line.removeprefix("$ ")
        if asks_status:
            found[-1].status, asks_status = int(line), False
        elif command == "echo $?":
            asks_status = True
        elif block.language == "bash" or line.startswith("$ "):
            found.append(Command(command.removeprefix("uv run ") if "pytest" not in command else command))
        elif line:
            found[-1].note(line)
    return [command for command in found if not PREPARES_THE_MACHINE.match(command.line)]


def normal(line: str) -> str:
    """*line* without what differs from run to run."""
    return " ".join(re.sub(r"\d+(\.\d+)*", "0", line).split())


def missing(shown: Iterable[str], output: str) -> list[str]:
    """The lines of *shown* that are not in *output*, whatever their order."""
    left = [normal(line) for line in output.splitlines()]
    lacking = []
    for line in shown:
        pattern = ".*".join(re.escape(part) for part in normal(line).split("…"))
        match = next((one for one in left if re.fullmatch(pattern, one)), None)
        if match is not None:
            left.remove(match)
        elif line.strip() != "…":
            lacking.append(line)
    return lacking


async def play(command: Command, folder: Path, environment: Mapping[str, str]) -> None:
    """Run *command*, press Ctrl-C when the page does, and compare what it prints with what is shown."""
    process = await trio.lowlevel.open_process(
        ["env", *shlex.split(command.line)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = ""
    interrupted = command.shown_after is None
    try:
        async with process.stdout:
            async for data in process.stdout:
                output += data.decode()
                if not interrupted and not missing(command.shown, output):
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()  # not killed: `trio-sup run` is to end its backends
            with trio.move_on_after(10, shield=True):
                await process.wait()
    assert status == command.status, output
    shown = [*command.shown, *(command.shown_after or ())]
    assert missing(shown, output) == [], output
    if shown and "…" not in map(str.strip, shown):
        assert len(shown) == len([line for line in output.splitlines() if not _BUSY.search(line)]), output


@pytest.mark.usefixtures("nothing_survives")
@pytest.mark.parametrize("page", TAUGHT, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_what_a_page_shows_can_be_followed_step_by_step(page: Path, tmp_path: Path) -> None:
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
    with trio.fail_after(180):  # a busy machine is not a wrong page
        for block in blocks(page):
            if block.file is not None:
                (folder / block.file).write_text(block.text)
            elif block.language == "python":
                name = f"line_{block.line}.py"
                (folder / name).write_text(block.text)
                await play(Command(f"python {name}"), folder, environment)
            elif block.language in ("console", "bash"):
                for command in commands(block):
                    await play(command, folder, environment)


@each_page
def test_every_configuration_shown_can_be_read(page: Path, tmp_path: Path) -> None:
    files = [block for block in blocks(page) if block.file is not None]
    for block in files:
        (tmp_path / str(block.file)).write_text(block.text)
    for block in blocks(page):
        if block.language == "toml":
            table = tomllib.loads(block.text)
            table.setdefault("backends", {"vectors": {"command": [sys.executable]}})
            if token_file := table.get("token_file"):
                (tmp_path / token_file).write_text("secret")
            interpret(table, tmp_path / "trio-sup.toml", {})


@each_page
def test_every_block_says_its_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {"python", "toml", "console", "bash", "text", "json", "env"}


# ---- where it points is there


def anchors(page: Path) -> set[str]:
    text = _BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text())
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
    prose = [line for line in _BLOCK.sub("", page.read_text()).splitlines() if not line.startswith("|")]
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
        if isinstance(default, Readiness):
            assert Readiness(**value) == default
            continue
        convert: Any = field.converter or (lambda value: value)
        assert convert(value) == convert(default), field.name


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("Top of the file", Settings),
        ("`[backends.NAME]`", ConfiguredBackend),
        ("`[backends.NAME.readiness]`", Readiness),
    ],
)
def test_every_key_of_the_configuration_is_listed_with_its_default(heading: str, cls: Any) -> None:
    section = sections("reference/configuration.md", 2)[heading]
    compare(options(section), [field for field in attrs.fields(cls) if field.name != "name"])


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
    return {"stop policy": "Stop policies", "port strategy": "Port strategies"}.get(kind, f"{kind.capitalize()}s")


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


def test_every_event_is_listed_with_its_fields() -> None:
    classes = {
        name: cls for name, cls in vars(events).items() if isinstance(cls, type) and cls.__module__ == events.__name__
    }
    found = sections("reference/events.md", 3)
    assert list(found) == [f"`{name}`" for name in classes]
    for name, cls in classes.items():
        own = {field.name for field in attrs.fields(cls) if not field.inherited}
        assert own <= set(re.findall(r"`(\w+)`", found[f"`{name}`"])), name


def test_every_hook_is_listed_with_what_it_says_itself() -> None:
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("trio_sup_")}
    found = sections("reference/hooks.md", 2)
    assert [heading for heading in found if heading.startswith("`")] == [f"`{name}`" for name in hooks]
    for name, hook in hooks.items():
        section = found[f"`{name}`"]
        summary = (inspect.getdoc(hook) or "").partition("\n\n")[0]
        assert " ".join(summary.split()) in " ".join(section.split()), name
        assert f"{name}{inspect.signature(hook)}".replace("'", "") in section, name


@pytest.mark.parametrize("command", ["run", "why", "demo", "plugins"])
def test_every_option_of_a_command_is_listed(command: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "trio_sup", command, "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    section = sections("reference/command-line.md", 2)[f"`trio-sup {command}`"]
    listed = set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE))
    assert listed == set(re.findall(r"^│ (--[\w-]+)", said, re.MULTILINE))
