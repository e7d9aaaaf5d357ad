"""What a configuration file says, as values: settings, groups and backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import attrs

from .._structuring import below
from .._units import byte_count, seconds_above_zero
from .._values import BackendSpec, Choice, GroupRestart, ProcessKey, to_bool, to_choice, to_count
from ..engine._plugins import Kind
from ..errors import InvalidValue
from ..gallery._settings import Galleries
from ._gallery_config import strategies_of
from ._made_strategy import Chosen

MAX_REPLICAS = 1000


def _to_replicas(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_REPLICAS:
        raise InvalidValue(value, f"expected a whole number from 1 to {MAX_REPLICAS}")
    return value


def _to_host(value: Any) -> str | None:
    return None if value is None else BackendSpec(name="any", command=["any"], host=value).host


def _to_token(value: Any) -> str | None:
    return BackendSpec(name="any", command=["any"], token=value).token


def _to_model(value: object) -> str | None:
    return None if value is None else ProcessKey(value, 0).model


def _to_names(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(name, str) for name in value):
        raise InvalidValue(value, "expected a list of names")
    return tuple(value)


@attrs.frozen(kw_only=True)
class Group:
    """One `[groups.NAME]`: who is restarted when a member of it is."""

    restart: GroupRestart = "one-for-one"


@attrs.frozen(kw_only=True)
class Settings:
    """What stands at the top of the file, `backends` and `galleries` apart."""

    state_dir: Path | None = None
    log_dir: Path | None = None
    shutdown_timeout: float = attrs.field(default=25.0, converter=seconds_above_zero)
    host: str | None = attrs.field(default=None, converter=_to_host)
    token: str | None = attrs.field(default=None, converter=_to_token, repr=False)
    token_file: Path | None = None
    ports: Any = attrs.field(default=Choice("affinity"), converter=to_choice)
    install_lock: Any = attrs.field(default=Choice("file"), converter=to_choice)
    stop_policy: Any = attrs.field(default=Choice("free-then-terminate"), converter=to_choice)
    restart_policy: Any = attrs.field(default=Choice("never"), converter=to_choice)
    max_running: int | None = attrs.field(default=None, converter=attrs.converters.optional(to_count))
    memory_budget: int | None = attrs.field(default=None, converter=attrs.converters.optional(byte_count))
    groups: Mapping[str, Group] = attrs.field(factory=dict)
    required_plugins: Sequence[str] = attrs.field(default=(), converter=_to_names)

    def strategies(self) -> Iterator[Chosen]:
        """What it chooses for backends that choose nothing else."""
        yield "port strategy", self.ports, "ports"
        yield "install lock", self.install_lock, "install_lock"
        yield "stop policy", self.stop_policy, "stop_policy"
        yield "restart policy", self.restart_policy, "restart_policy"


@attrs.frozen(kw_only=True)
class ConfiguredBackend(BackendSpec):
    """One `[backends.NAME]`: a specification, and how many processes are started from it."""

    model: str | None = attrs.field(default=None, converter=_to_model)
    replicas: int = attrs.field(default=1, converter=_to_replicas)
    autostart: bool = attrs.field(default=True, converter=to_bool)

    def process_keys(self) -> tuple[ProcessKey, ...]:
        """The slots it fills."""
        return tuple(ProcessKey(self.model or self.name, replica) for replica in range(self.replicas))

    def spec(self) -> BackendSpec:
        """The specification alone."""
        return BackendSpec(**{field.name: getattr(self, field.name) for field in attrs.fields(BackendSpec)})

    def strategies(self) -> Iterator[Chosen]:
        """What it chooses itself."""
        if self.ports is not None:
            yield "port strategy", self.ports, "ports"
        if self.stop_policy is not None:
            yield "stop policy", self.stop_policy, "stop_policy"
        if self.restart_policy is not None:
            yield "restart policy", self.restart_policy, "restart_policy"
        yield "probe", self.readiness.probe, "readiness.probe"
        if self.liveness is not None:
            yield "probe", self.liveness.probe, "liveness.probe"
        for index, warm_up in enumerate(self.warm_up):
            yield "warm-up", warm_up, below("warm_up", index)
        for index, preparation in enumerate(self.launch):
            yield "launch preparation", preparation, below("launch", index)


@attrs.frozen(kw_only=True)
class Config:
    """A configuration that was checked as far as it can be without starting anything.

    Attributes:
        galleries: None if there is no such table, and no backend needs one.
        sections: The tables of plugins, by name, each made by its plugin's class.
    """

    path: Path
    settings: Settings
    backends: tuple[ConfiguredBackend, ...]
    galleries: Galleries | None = None
    sections: Mapping[str, object] = attrs.field(factory=dict)

    def strategies(self) -> Iterable[tuple[Kind, Any]]:
        """Every strategy it chooses: its kind, and the choice."""
        chosen = chain(
            self.settings.strategies(),
            () if self.galleries is None else strategies_of(self.galleries),
            *(backend.strategies() for backend in self.backends),
        )
        return ((kind, choice) for kind, choice, _ in chosen)
