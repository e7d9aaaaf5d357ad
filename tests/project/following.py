"""Following a page of the documentation as a reader does: its files are written, its commands are typed.

A block whose first line is a comment with the name of a file is written to that file; any other Python block is a
program. The blocks of a page are followed in order, in one folder. In a `console` block, lines after ``$ `` are
commands, ``^C`` is a Ctrl-C, and the rest is what is shown: numbers may differ, ``…`` stands for anything. A command
that ends with `` &`` goes on in the background once it has shown what is shown of it, up to ``kill %1`` or the end.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs
import trio

PREPARES_THE_MACHINE = re.compile(r"(git clone|cd|source|uv venv|uv pip install|uv build|uv run pytest)\b")
"""Commands for the reader's machine: run only by one who sets up; else everything is there, or they would not end."""

INSTALLS_ITSELF = re.compile(r"^(\$ )?uv pip install -e \.", re.MULTILINE)
"""In a page whose reader makes a package and installs it, so that nothing on it works without setting up."""

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# A warning about the machine, not about the page.
_BUSY = re.compile(r"^(trio-sup \|.*)?plugin .* took .*; everything else waited$")
_FILE_NAME = re.compile(r"(?:#|\"\"\") ?([\w./-]+\.\w+)$", re.MULTILINE)


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
    for match in BLOCK.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        yield Block(language, "".join(lines), text.count("\n", 0, match.start()) + 1)


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
    """The commands of a `console` or `bash` block."""
    found: list[Command] = []
    asks_status = False
    for line in block.text.splitlines():
        command = line if block.language == "bash" else line.removeprefix("$ ")
        if asks_status:
            found[-1].status, asks_status = int(line), False
        elif command == "echo $?":
            asks_status = True
        elif block.language == "bash" or line.startswith("$ "):
            found.append(Command(command))
        elif line:
            found[-1].note(line)
    return found


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


def _needed(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line and not _BUSY.search(line)]


@attrs.define(eq=False)
class Job:
    """A command in the background.

    Attributes:
        showed: Set when it has shown what the page shows of it.
        told: Set when it is to end.
        ended: Set when it has.
    """

    showed: trio.Event = attrs.field(factory=trio.Event)
    told: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def end(self) -> None:
        self.told.set()
        await self.ended.wait()


async def play(command: Command, folder: Path, environment: Mapping[str, str], job: Job | None = None) -> None:
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
        async with process.stdout, trio.open_nursery() as nursery:
            if job is not None:
                nursery.start_soon(_end_when_told, process, job)
            async for data in process.stdout:
                output += data.decode()
                if not interrupted and not missing(command.shown, output):
                    process.send_signal(signal.SIGINT)
                    interrupted = True
                if job is not None and not missing(command.shown, output):
                    job.showed.set()
            nursery.cancel_scope.cancel()
        status = await process.wait()
    finally:
        if process.returncode is None:
            print(output)  # for whoever asks why it did not end
            process.terminate()  # not killed: `trio-sup run` is to end its backends
            with trio.move_on_after(10, shield=True):
                await process.wait()
    if job is not None:
        assert job.told.is_set(), output
        assert status in (command.status, -signal.SIGTERM), output
        assert missing(command.shown, output) == [], output
        job.ended.set()
        return
    assert status == command.status, output
    shown = [*command.shown, *(command.shown_after or ())]
    assert missing(shown, output) == [], output
    if shown and "…" not in map(str.strip, shown):
        assert len(_needed(shown)) == len(_needed(output.splitlines())), output


async def _end_when_told(process: trio.Process, job: Job) -> None:
    await job.told.wait()
    process.terminate()


@attrs.define
class Reader:
    """Somebody who follows pages.

    Args:
        folder: Where the files go and the commands are typed; `cd` changes it.
        environment: The variables of the commands; ``source …/bin/activate`` changes them.
        sets_up: Also runs the commands that prepare the machine, instead of having everything installed already.
        hurries: Does not run pytest.
    """

    folder: Path
    environment: dict[str, str]
    sets_up: bool = False
    hurries: bool = False
    _jobs: list[Job] = attrs.field(factory=list, init=False)
    _nursery: trio.Nursery = attrs.field(init=False)

    async def follow(self, page: Path) -> None:
        """Write and run what *page* shows, in order; fail where it is not as shown."""
        async with trio.open_nursery() as self._nursery:
            await self._follow(page)
            for job in self._jobs:
                await job.end()

    async def _follow(self, page: Path) -> None:
        for block in blocks(page):
            if block.file is not None:
                (self.folder / block.file).write_text(block.text)
            elif block.language == "python":
                name = f"line_{block.line}.py"
                (self.folder / name).write_text(block.text)
                await play(Command(f"python {name}"), self.folder, self.environment)
            elif block.language in ("console", "bash"):
                for command in commands(block):
                    await self.type(command)

    async def type(self, command: Command) -> None:
        """Run one command, or do what the shell would do itself."""
        if not self.sets_up and PREPARES_THE_MACHINE.match(command.line):
            return
        if self.hurries and command.line.startswith("pytest "):
            return
        word, _, rest = command.line.partition(" ")
        if word == "cd":
            self.folder /= rest
            assert self.folder.is_dir(), command.line
        elif word == "source":
            scripts = (self.folder / rest).parent
            assert (scripts / "activate").is_file(), command.line
            self.environment["VIRTUAL_ENV"] = str(scripts.parent)
            self.environment["PATH"] = os.pathsep.join([str(scripts), self.environment["PATH"]])
        elif word == "kill":
            await self._jobs[int(rest.removeprefix("%")) - 1].end()
        else:
            line = command.line if self.sets_up else command.line.removeprefix("uv run ")
            if not line.endswith(" &"):
                await play(attrs.evolve(command, line=line), self.folder, self.environment)
                return
            job = Job()
            self._jobs.append(job)
            command = attrs.evolve(command, line=line.removesuffix(" &"))
            self._nursery.start_soon(play, command, self.folder, dict(self.environment), job)
            await job.showed.wait()
