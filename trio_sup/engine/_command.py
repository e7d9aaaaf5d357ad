"""From a specification to what is executed: program, arguments, environment, directory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import attrs

from .._releases import Release
from .._values import BackendSpec
from ..errors import InvalidCommand, InvalidValue
from ..protocol.address import join_address

TOKEN_VARIABLE = "LOCALAI_GRPC_AUTH_TOKEN"
RUN_SCRIPT = "run.sh"
"""The program of every release. Source: spec 1.1."""


@attrs.frozen(kw_only=True)
class Command:
    """What is executed, all of it resolved.

    Attributes:
        executable: Path of the program.
        release: The installed backend that it is; None if it is none.
        environment: Everything but the marker.
        cwd: Working directory, or None for the supervisor's own.
        directory: See [`BackendSpec.directory`][trio_sup.BackendSpec].
        directory_identity: Its device and inode, or None if it cannot be read.
        token: The bearer token that the backend will find in its environment, however it came there.
    """

    spec: BackendSpec
    executable: str
    environment: Mapping[str, str] = attrs.field(repr=False)
    cwd: Path | None
    directory: Path
    directory_identity: tuple[int, int] | None
    token: str | None = attrs.field(repr=False)
    release: Release | None = None

    def arguments(self, port: int) -> tuple[str, ...]:
        """The command with its placeholders filled in; ``--addr host:port`` is appended if it has none."""
        values = {"{host}": self.spec.host, "{port}": str(port), "{address}": join_address(self.spec.host, port)}
        command = (self.executable, *self.spec.command) if self.release is not None else tuple(self.spec.command)
        filled = []
        for part in command:
            for placeholder, value in values.items():
                part = part.replace(placeholder, value)
            filled.append(part)
        if tuple(filled) == command:
            filled += ["--addr", values["{address}"]]
        return tuple(filled)


def check(spec: BackendSpec) -> None:
    """Look whether *spec* could be launched now.

    Raises:
        InvalidCommand: The program or the working directory is missing or unusable.
        InvalidValue: The environment file cannot be used.
    """
    prepare(spec)


def prepare(spec: BackendSpec, release: Release | None = None) -> Command:
    """Resolve *spec* for a launch.

    Args:
        release: The installed backend that it names; without it, one that names a release is checked as far as it can
            be.

    Raises:
        InvalidCommand: The program or the working directory is missing or unusable.
        InvalidValue: The environment file cannot be used.
        OSError: Too many files are open.
    """
    try:
        return _resolved(spec, release)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise InvalidCommand(spec.command or [str(spec.release)], f"{error.strerror}: {error.filename}") from error


def _resolved(spec: BackendSpec, release: Release | None) -> Command:
    if spec.cwd is not None and not spec.cwd.is_dir():
        raise InvalidCommand(spec.command, f"its working directory {spec.cwd} is not a directory")
    home = release.directory.absolute() if release is not None and release.directory is not None else None
    environment = _environment(spec, _vulkan_drivers(home) if home is not None else {})
    cwd = spec.cwd
    if spec.release is None:
        executable = _executable(spec, environment.get("PATH", os.defpath))
        directory = spec.directory or spec.cwd or Path(executable).absolute().parent
    elif home is None:
        executable, directory = RUN_SCRIPT, spec.directory or Path()
    else:
        executable, directory, cwd = _run_script(spec, home), home, cwd or home
    return Command(
        spec=spec,
        executable=executable,
        environment=environment,
        cwd=cwd,
        directory=directory,
        directory_identity=identity_of(directory),
        token=environment.get(TOKEN_VARIABLE) or None,
        release=release,
    )


def identity_of(directory: Path) -> tuple[int, int] | None:
    """Device and inode of *directory*; None if it is not there."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _environment(spec: BackendSpec, bundled: Mapping[str, str]) -> dict[str, str]:
    environment = {**({} if spec.clear_env else os.environ), **bundled}
    if spec.env_file is not None:
        environment |= _read_env_file(spec.env_file)
    environment |= spec.env
    if spec.token is not None:
        environment[TOKEN_VARIABLE] = spec.token
    return environment


def _read_env_file(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values  # a launch without an environment file does not pay for it

    try:
        with path.open(encoding="utf-8") as file:
            values = dotenv_values(stream=file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidValue(str(path), f"env_file cannot be read: {reason}") from error
    for name, value in values.items():
        if value is None:
            raise InvalidValue(str(path), f"env_file: the line {name!r} has no value; write NAME=value")
    return {name: value for name, value in values.items() if value is not None}


def _run_script(spec: BackendSpec, directory: Path) -> str:
    path = directory / RUN_SCRIPT
    if not path.is_file():
        raise InvalidCommand([str(spec.release)], f"there is no file {path}; install it again")
    if not os.access(path, os.X_OK):
        raise InvalidCommand([str(spec.release)], f"it is not executable; try: chmod +x {path}")
    return str(path)


def _vulkan_drivers(directory: Path) -> dict[str, str]:
    """The driver manifests that a release brings along, for the loader.

    Source: the LocalAI worker sets both variables (spec 1.3).
    """
    manifests = ":".join(str(path) for path in sorted(directory.glob("vulkan/icd.d/*.json")) if path.is_file())
    return {"VK_DRIVER_FILES": manifests, "VK_ICD_FILENAMES": manifests} if manifests else {}


def _executable(spec: BackendSpec, search_path: str) -> str:
    program = spec.command[0]
    if "/" not in program:
        found = shutil.which(program, path=search_path)
        if found is None:
            raise InvalidCommand(spec.command, "no such program on its PATH")
        return found
    path = Path(spec.cwd or ".") / program
    if path.is_dir():
        raise InvalidCommand(spec.command, "it is a directory; name the program in it")
    if not path.exists():
        raise InvalidCommand(spec.command, f"there is no file {path}")
    if not os.access(path, os.X_OK):
        raise InvalidCommand(spec.command, f"it is not executable; try: chmod +x {path}")
    return str(path.absolute())
