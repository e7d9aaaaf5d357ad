"""Small galleries for the tests of commands: archives, an index of them, and the commands as real processes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import trio

from tests.gallery.tars import RUN, member, tar
from tests.runner.running import TRIO_SUP, environment
from trio_sup.runner import command_line


def archive(version: str, size: int = 0) -> bytes:
    """A release as a compressed archive, with a file of *size* bytes that cannot be compressed."""
    noise = b"".join(hashlib.sha256(f"{version} {i}".encode()).digest() for i in range(size // 32))
    return gzip.compress(tar([RUN, member("version", version.encode()), member("noise", noise)]), compresslevel=1)


@attrs.frozen
class Place:
    """A folder with a configuration, a gallery `ours` in a file, and the releases that were installed from it."""

    folder: Path

    @property
    def backends(self) -> Path:
        return self.folder / "backends"

    @property
    def index(self) -> Path:
        return self.backends / "index.yaml"

    @classmethod
    def make(cls, folder: Path, *urls: str, settings: str = "", more: str = "") -> Place:
        """With the galleries at *urls* instead of that in the file, more *settings* of all galleries, and *more* at the
        end of the configuration."""
        place = cls(folder)
        place.backends.mkdir()
        galleries = urls or (place.index.as_uri(),)
        names = ["ours", *(f"other{number}" for number in range(1, len(galleries)))]
        tables = "".join(
            f'[[galleries.index]]\nname = "{name}"\nurl = "{url}"\n' for name, url in zip(names, galleries, strict=True)
        )
        (folder / "trio-sup.toml").write_text(
            f'[galleries]\nbackends_dir = "backends"\ncapability = "default"\n{settings}\n{tables}{more}'
        )
        return place

    def offer(self, *entries: Mapping[str, Any]) -> None:
        """Make this the content of the index in the file. (JSON is YAML, too.)"""
        self.index.write_text(json.dumps(entries))

    def archived(self, name: str, version: str, size: int = 0) -> Path:
        """An archive on disk."""
        path = self.folder / f"{name}-{version}.tar.gz"
        path.write_bytes(archive(version, size))
        return path

    def entry(self, name: str, version: str, **more: Any) -> dict[str, Any]:
        """An entry of the index, with its archive on disk."""
        path = self.archived(name, version)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"name": name, "version": version, "uri": path.as_uri(), "sha256": digest, **more}

    def version_of(self, name: str) -> str:
        """What is installed as *name*."""
        return (self.backends / name / "version").read_text()

    def leftovers(self) -> list[str]:
        """What is among the releases and is none, and what is left of installations; complete ones leave nothing."""
        own = self.backends / ".trio-sup"
        left = [path for part in ("work", "downloads", "trash") for path in own.glob(f"{part}/*")]
        odd = [path for path in self.backends.iterdir() if path.is_dir() and path != own and not is_release(path)]
        return sorted(str(path.relative_to(self.backends)) for path in [*left, *odd])

    # ---- commands

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.folder, XDG_DATA_HOME=str(self.folder / "data"), PYTHONWARNINGS="error")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in this process, which spares it most of a second; in the folder, as all of them."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        stdout, stderr = io.StringIO(), io.StringIO()
        try:
            with (
                contextlib.chdir(self.folder),
                mock.patch.dict(os.environ, self.environment, clear=True),
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
            ):
                status = command_line(list(arguments))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())

    async def process(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run `trio-sup` to its end, while this process serves it."""
        return await trio.run_process(
            [*TRIO_SUP, *arguments], cwd=self.folder, env=self.environment,
            capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip


def is_release(path: Path) -> bool:
    """Whether it is whole: what an installation leaves is never half there."""
    recorded = json.loads((path / "metadata.json").read_bytes())
    return "meta_backend_for" in recorded or ((path / "run.sh").is_file() and (path / "version").is_file())


def lines(output: str | bytes) -> Sequence[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def columns(output: str) -> list[dict[str, str]]:
    """The rows of a table, by the names of its columns."""
    head, *rows = output.splitlines()
    starts = [
        index
        for index in range(len(head))
        if head[index] != " " and (index == 0 or head[max(index - 2, 0) : index] == "  ")
    ]
    ends = [*starts[1:], None]
    names = [head[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return [
        {name: row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for row in rows
    ]
