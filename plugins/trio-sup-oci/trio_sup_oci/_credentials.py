"""Credentials as ``docker login`` and ``podman login`` keep them: in files, and with helper programs."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ._credential_helpers import ask_helper
from ._errors import UnusableCredentials
from ._reference import DOCKER_HUB, Reference, registry_name

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its configuration."""
LARGEST_FILE = 4 * 2**20
_AROUND_HOST = re.compile(r"^https?://|/+$|/v[12]/*$")
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@attrs.frozen(kw_only=True)
class Credentials:
    """What proves to a registry who asks. None of it is ever shown: the fields are left out of the `repr`.

    Attributes:
        username, password: For Basic, and to get a token.
        identity_token: A long-lived token, to be exchanged for short-lived ones.
        registry_token: To be sent as it is.
    """

    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)
    identity_token: str = attrs.field(default="", repr=False)
    registry_token: str = attrs.field(default="", repr=False)


async def credentials_for(reference: Reference) -> Credentials | None:
    """Look for credentials for the repository of *reference*; None if there are none.

    Looked at are, until one has some: the file that ``$REGISTRY_AUTH_FILE`` names, Docker's ``config.json`` (in
    ``$DOCKER_CONFIG``, else in ``~/.docker``), and ``containers/auth.json`` in ``$XDG_RUNTIME_DIR`` and in
    ``$XDG_CONFIG_HOME`` (else ``~/.config``).

    Raises:
        UnusableCredentials: A file that is there cannot be read, or a helper program fails.

    Cancellation: ends a helper program that runs.
    """
    for path in _files(os.environ, _home()):
        if (table := _read(path)) is not None and (found := await _credentials_in(table, path, reference)) is not None:
            return found
    return None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user without an entry, as in some containers
        return None


def _files(environment: Mapping[str, str], home: Path | None) -> Iterator[Path]:
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if named := environment.get("DOCKER_CONFIG"):
        yield Path(named) / "config.json"
    elif home is not None:
        yield home / ".docker" / "config.json"
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    if named := environment.get("XDG_CONFIG_HOME"):
        yield Path(named) / "containers" / "auth.json"
    elif home is not None:
        yield home / ".config" / "containers" / "auth.json"


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnusableCredentials(str(path), error.strerror or str(error)) from error
    if len(data) > LARGEST_FILE:
        raise UnusableCredentials(str(path), f"it is larger than {LARGEST_FILE} bytes")
    try:
        table = json.loads(data.strip() or b"{}")
    except (ValueError, RecursionError):
        # The complaint of the JSON reader would quote the file.
        raise UnusableCredentials(str(path), "it is no JSON") from None
    if not isinstance(table, dict):
        raise UnusableCredentials(str(path), "it is no JSON object")
    return table


async def _credentials_in(table: Mapping[str, Any], path: Path, reference: Reference) -> Credentials | None:
    server = HUB_KEY if reference.registry == DOCKER_HUB else reference.registry
    helpers = _table(table, "credHelpers")
    for key, helper in helpers.items():
        if _host_of(key) == reference.registry:
            return _from_helper(await ask_helper(_helper(helper, path), server))
    if (store := table.get("credsStore")) and (answer := await ask_helper(_helper(store, path), server)) is not None:
        return _from_helper(answer)
    return _from_auths(_table(table, "auths"), path, reference)


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _helper(name: object, path: Path) -> str:
    # It becomes part of the name of a program: nothing that names another directory.
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise UnusableCredentials(str(path), f"{name!r} cannot be the name of a credential helper")
    return name


def _from_helper(answer: tuple[str, str] | None) -> Credentials | None:
    if answer is None:
        return None
    username, secret = answer
    # Source: the protocol of the helpers: such a name means that the secret is an identity token.
    return (
        Credentials(identity_token=secret) if username == "<token>" else Credentials(username=username, password=secret)
    )


def _from_auths(auths: Mapping[str, Any], path: Path, reference: Reference) -> Credentials | None:
    """The entry for the longest part of the name: podman keeps some for one repository, or for one owner."""
    by_name = {_name_of(key): entry for key, entry in auths.items()}
    name = reference.name
    while True:
        entry = by_name.get(name)
        if isinstance(entry, dict) and (found := _from_entry(entry, path)) is not None:
            return found
        if "/" not in name:
            return None
        name = name.rpartition("/")[0]


def _from_entry(entry: Mapping[str, Any], path: Path) -> Credentials | None:
    def text(key: str) -> str:
        value = entry.get(key)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if encoded := text("auth"):
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise UnusableCredentials(str(path), "an entry `auth` in it is no base64") from None
        username, colon, password = decoded.partition(":")
        password = password.rstrip("\0")  # as Docker does
        if not colon:
            raise UnusableCredentials(str(path), "an entry `auth` in it is not user:password")
    found = Credentials(
        username=username,
        password=password,
        identity_token=text("identitytoken"),
        registry_token=text("registrytoken"),
    )
    return found if found.username or found.identity_token or found.registry_token else None


def _name_of(key: str) -> str:
    """A key of the file as a registry, or registry and path, in the form that `Reference.name` has."""
    host, slash, path = _bare(key).partition("/")
    return _host_of(host) + slash + path


def _host_of(key: str) -> str:
    try:
        return registry_name(_bare(key))
    except ValueError:
        return key


def _bare(key: str) -> str:
    while (shorter := _AROUND_HOST.sub("", key)) != key:
        key = shorter
    return key
