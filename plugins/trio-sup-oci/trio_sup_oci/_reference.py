"""References to images: the registry, the repository in it, and which of its images is meant."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

import attrs

from trio_sup import InvalidValue

DOCKER_HUB = "docker.io"
_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_HUB_HOST = "registry-1.docker.io"

_REGISTRY = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Greedy: a password may have any character in it, and none of it may get into a message.
_BEFORE_AT = re.compile(r"(?:(?<=oci://)|^(?!oci://)).*@(?!sha\d+:)", re.DOTALL)
LONGEST_REPOSITORY = 255
"""Source: the grammar of references of the distribution project, as are the patterns above."""


@attrs.frozen(kw_only=True)
class Reference:
    """What names an image.

    Attributes:
        registry: Its host, with the port if one is given, in lower case: ``quay.io``, ``docker.io``, ``[::1]:5000``.
        repository: The path in it: ``library/debian``.
        tag: None if only the digest is given.
        digest: ``sha256:…`` of the manifest or the list of manifests that is meant; None if it is not pinned.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def host(self) -> str:
        """Host and port to talk to, which for Docker Hub is not the name that people write."""
        return _HUB_HOST if self.registry == DOCKER_HUB else self.registry

    @property
    def name(self) -> str:
        """Registry and repository: ``quay.io/org/repository``."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read a reference such as ``oci://quay.io/org/repository:tag@sha256:…``; the scheme may be left out.

    Without a registry Docker Hub is meant, there without an owner ``library``, without tag and digest ``latest``.

    Raises:
        InvalidValue: It is none; user names and passwords in it are not repeated.
    """
    rest = text.removeprefix("oci://")
    if _BEFORE_AT.search(text):
        raise InvalidValue(
            _BEFORE_AT.sub("***@", text),
            "after @ comes a digest; credentials have no place here, `docker login` keeps them where they are found",
        )
    if "://" in rest or not rest:
        raise InvalidValue(text, "expected oci://registry/repository:tag")
    rest, digest = _split_digest(rest, text)
    rest, tag = _split_tag(rest, text)
    first, slash, path = rest.partition("/")
    if _names_a_registry(first):
        if not slash:
            raise InvalidValue(text, f"{first} is a registry; name a repository in it: {first}/owner/name:tag")
        registry = _registry(first, text)
    else:
        registry, path = DOCKER_HUB, rest
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(
        registry=registry,
        repository=_repository(path, text),
        tag=tag or (None if digest else "latest"),
        digest=digest,
    )


def _split_digest(rest: str, text: str) -> tuple[str, str | None]:
    rest, at, digest = rest.partition("@")
    if not at:
        return rest, None
    if not DIGEST.fullmatch(digest):
        raise InvalidValue(text, "after @ comes a digest: sha256: and 64 hex digits in lower case")
    return rest, digest


def _split_tag(rest: str, text: str) -> tuple[str, str | None]:
    before, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag or (tag.endswith("]") and "/" not in before):
        return rest, None
    if not _TAG.fullmatch(tag):
        raise InvalidValue(text, "a tag has at most 128 letters, digits and . _ -, and begins with none of . -")
    return before, tag


def _names_a_registry(first: str) -> bool:
    return first == "localhost" or any(mark in first for mark in ".:[")


def _registry(text: str, whole: str) -> str:
    match = _REGISTRY.fullmatch(text)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise InvalidValue(whole, f"{text!r} is no host, nor host:port")
    if match["host"].startswith("[") and _address(match["host"]) is None:
        raise InvalidValue(whole, f"{match['host']} is no IPv6 address")
    registry = text.lower()
    return DOCKER_HUB if registry in _HUB_ALIASES else registry


def _repository(path: str, text: str) -> str:
    if len(path) > LONGEST_REPOSITORY:
        raise InvalidValue(text, f"a repository's name has at most {LONGEST_REPOSITORY} characters")
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            hint = "; it must be in lower case" if _COMPONENT.fullmatch(component.lower()) else ""
            raise InvalidValue(text, f"{component!r} cannot be part of a repository's name{hint}")
    return path


def registry_name(value: object) -> str:
    """A registry as it is written in references, in its one form: ``docker.io`` for all names of Docker Hub.

    Raises:
        InvalidValue: It is no host, nor host and port.
    """
    if not isinstance(value, str):
        raise InvalidValue(value, "expected a registry: host, or host:port")
    return _registry(value, value)


def may_be_plain(registry: str, insecure: Collection[str]) -> bool:
    """Whether *registry* (host, or host:port) may be talked to without encryption.

    That is so for this machine itself, and for those that are listed in *insecure*.
    """
    match = _REGISTRY.fullmatch(registry)
    if match is None:
        return registry in insecure
    address = _address(match["host"])
    here = match["host"].lower() == "localhost" or (address is not None and address.is_loopback)
    return here or registry.lower() in insecure


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
