"""What a program or a configuration says about galleries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from .._options import complaints_name_fields
from .._releases import UnpackLimits
from .._values import to_bool
from ..errors import InvalidValue
from ._gallery import DEFAULT_GALLERY, Gallery


def _to_directory(value: object) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise InvalidValue(value, "expected a path")
    return Path(value).expanduser()


def _to_index(value: object) -> tuple[Gallery, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise InvalidValue(value, "expected a list of galleries")
    galleries = tuple(value)
    for gallery in galleries:
        if not isinstance(gallery, Gallery):
            raise InvalidValue(gallery, "expected a trio_sup.Gallery")
    names = [gallery.name for gallery in galleries]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue(name, "two galleries must not have the same name")
    return galleries


def _to_capability(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidValue(value, 'expected a capability such as "nvidia-cuda-12", or "default"')
    return value.strip()


def _to_sources(value: object) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        raise InvalidValue(value, "expected a table of options for each scheme")
    for scheme, options in value.items():
        if not isinstance(scheme, str) or not isinstance(options, Mapping):
            raise InvalidValue("(hidden)", f"{scheme}: expected a table of options")
    return dict(value)


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Galleries:
    """Where releases are kept on this machine, and where they come from.

    Args:
        backends_dir: Directory of the releases, laid out as LocalAI's; it is made if need be. All that
            share it share its install locks.
        system_dir: Directory of releases that came with the machine; they are used, and never changed.
        index: The galleries; when two have an entry of the same name, the first one's counts.
        auto_install: Whether the start of a backend whose release is not installed may install it.
        require_integrity: Refuse whatever nothing proves to be what was meant.
        capability: What this machine can run, as metas say it (``"nvidia-cuda-12"``); by default that is detected.
        limits: How much one release may unpack to.
        sources: Options of the sources that fetch releases, by scheme: ``{"https": {"stall_timeout": "30s"}}``.

    Raises:
        InvalidValue: A field makes no sense; the message names it.
    """

    backends_dir: Path = attrs.field(converter=_to_directory)
    system_dir: Path | None = attrs.field(default=None, converter=attrs.converters.optional(_to_directory))
    index: tuple[Gallery, ...] = attrs.field(default=(DEFAULT_GALLERY,), converter=_to_index)
    auto_install: bool = attrs.field(default=False, converter=to_bool)
    require_integrity: bool = attrs.field(default=False, converter=to_bool)
    capability: str | None = attrs.field(default=None, converter=attrs.converters.optional(_to_capability))
    limits: UnpackLimits = attrs.field(factory=UnpackLimits, validator=attrs.validators.instance_of(UnpackLimits))
    sources: Mapping[str, Mapping[str, Any]] = attrs.field(
        factory=dict, converter=_to_sources, hash=False, repr=False
    )  # headers among them may be secret
