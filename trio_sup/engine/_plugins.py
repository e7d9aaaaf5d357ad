"""The plugins of one supervisor: what they offer, and the strategies made from it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, Final, Literal, TypeAlias, overload

import attrs
import pluggy

from .. import hookspecs
from .._structuring import InvalidTable, problems_of, structure
from .._values import Choice
from ..errors import InvalidOptions, InvalidValue, TrioSupError, UnknownStrategy
from ..strategies import InstallLock, LaunchPreparation, Observer, PortStrategy, Probe, Service, StopPolicy

Kind: TypeAlias = Literal["port strategy", "install lock", "stop policy", "probe", "launch preparation"]
Factory: TypeAlias = Callable[..., object]


@attrs.define(slots=False, eq=False)
class PluginError(TrioSupError):
    """A plugin cannot be used.

    Attributes:
        plugin: Its name: that of its module or class.
    """

    plugin: str
    why: str

    def __str__(self) -> str:
        return f"plugin {self.plugin}: {self.why}"


@attrs.frozen
class _Offer:
    plugin: str
    factory: Factory


_HOOKS: Final[Mapping[Kind, tuple[str, type]]] = {
    "port strategy": ("trio_sup_port_strategies", PortStrategy),
    "install lock": ("trio_sup_install_locks", InstallLock),
    "stop policy": ("trio_sup_stop_policies", StopPolicy),
    "probe": ("trio_sup_probes", Probe),
    "launch preparation": ("trio_sup_launch_preparations", LaunchPreparation),
}
KINDS: Final = tuple(_HOOKS)


class Plugins:
    """The built-in plugins and *extra* ones, asked once what they offer.

    Args:
        extra: Modules or objects with functions marked by `trio_sup.hookimpl`. When two offer the same name, the
            later one wins, and any of them wins over a built-in.

    Raises:
        PluginError: One has a misspelt or misshapen hook, is given twice, or offers nonsense.
    """

    def __init__(self, extra: Iterable[object] = ()) -> None:
        # The built-ins are plugins like any other; only here does the engine know where they live.
        from .. import defaults

        manager = pluggy.PluginManager("trio_sup")
        manager.add_hookspecs(hookspecs)
        for plugin in (*defaults.PLUGINS, *extra):
            _register(manager, plugin)
        self._manager = manager
        self._offers = {kind: _offers(manager, hook) for kind, (hook, _) in _HOOKS.items()}
        self.commands: Mapping[str, Factory] = _factories(_offers(manager, "trio_sup_commands"))
        """Subcommands of `trio-sup`, by name."""
        self.sections: Mapping[str, Factory] = _factories(_offers(manager, "trio_sup_config_sections"))
        """What makes the plugins' top-level tables of the configuration, by name."""

    def observers(self, sections: Mapping[str, Any]) -> Sequence[tuple[str, Observer]]:
        """The observers of all plugins, each with the name of its plugin.

        Raises:
            PluginError: A hook raised, or gave something else.
        """
        found: list[tuple[str, Observer]] = []
        for plugin, answer in _answers(self._manager, "trio_sup_observers", {"sections": sections}):
            if not isinstance(answer, Sequence) or not all(map(callable, answer)):
                raise PluginError(plugin, f"its hook trio_sup_observers returned {reprlib.repr(answer)}, not functions")
            found += [(plugin, observer) for observer in answer]
        return found

    def services(self, sections: Mapping[str, Any]) -> Sequence[tuple[str, str, Service]]:
        """The services of all plugins: plugin, name and function.

        Raises:
            PluginError: A hook raised, or gave something else.
        """
        return [
            (offer.plugin, name, offer.factory)  # type: ignore[misc]  # a service is any callable until it is called
            for name, offer in _offers(self._manager, "trio_sup_services", {"sections": sections}).items()
        ]

    def hooks_answered(self) -> Mapping[str, Sequence[str]]:
        """The names of the hooks that each plugin answers, by the plugin's name."""
        return {
            name: sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or ())
            for name, plugin in self._manager.list_name_plugin()
        }

    def offered(self, kind: Kind) -> Mapping[str, Factory]:
        """What makes a strategy of *kind*, by name."""
        return _factories(self._offers[kind])

    def name_of(self, kind: Kind, choice: Any) -> str:
        """How a chosen strategy is called in messages: its plugin and its name, or the class of the object."""
        if not isinstance(choice, Choice):
            return _name_of(choice)
        return f"{self.offered_by(kind, choice.name)}:{choice.name}"

    def offered_by(self, kind: Kind, name: str) -> str:
        """The name of the plugin whose offer counts.

        Raises:
            UnknownStrategy: None offers it.
        """
        return self._offer(kind, name).plugin

    @overload
    def make(self, kind: Literal["port strategy"], choice: Any) -> PortStrategy: ...
    @overload
    def make(self, kind: Literal["install lock"], choice: Any) -> InstallLock: ...
    @overload
    def make(self, kind: Literal["stop policy"], choice: Any) -> StopPolicy: ...
    @overload
    def make(self, kind: Literal["probe"], choice: Any) -> Probe: ...
    @overload
    def make(self, kind: Literal["launch preparation"], choice: Any) -> LaunchPreparation: ...
    @overload
    def make(self, kind: Kind, choice: Any) -> object: ...
    def make(self, kind: Kind, choice: Any) -> object:
        """Make the strategy that *choice* names; anything but a `Choice` is taken for the strategy itself.

        Raises:
            UnknownStrategy: No plugin offers that name.
            InvalidOptions: Its options do not fit; carries every problem.
            InvalidValue: *choice* is an object without the methods of a strategy of this kind.
            PluginError: The plugin failed to make it, or made something else.
        """
        if not isinstance(choice, Choice):
            if lacks := _lacks(kind, choice):
                raise InvalidValue(choice, f"expected a {kind}: a name, a table, or an object; this one has {lacks}")
            return choice
        offer = self._offer(kind, choice.name)
        try:
            made = _build(offer.factory, choice.options)
        except InvalidTable as error:
            raise InvalidOptions(kind, choice.name, error.problems) from error
        except (InvalidValue, TypeError, ValueError) as error:
            raise InvalidOptions(kind, choice.name, problems_of(error)) from error
        except Exception as error:
            raise PluginError(offer.plugin, f"could not make the {kind} {choice.name!r}: {error!r}") from error
        if lacks := _lacks(kind, made):
            raise PluginError(offer.plugin, f"made {reprlib.repr(made)} for the {kind} {choice.name!r}: it has {lacks}")
        return made

    def _offer(self, kind: Kind, name: str) -> _Offer:
        offers = self._offers[kind]
        if name not in offers:
            raise UnknownStrategy(kind, name, sorted(offers))
        return offers[name]


def _build(factory: Factory, options: Mapping[str, Any]) -> object:
    if not (isinstance(factory, type) and attrs.has(factory)):
        return factory(**options)
    required = any(field.init and field.default is attrs.NOTHING for field in attrs.fields(factory))
    # cattrs is not imported by those who set no option.
    return structure(factory, options) if options or required else factory()


def _lacks(kind: Kind, strategy: object) -> str:
    """What an object lacks to be a strategy of *kind*, for a message; empty if nothing."""
    if isinstance(strategy, type):
        return "not been made yet: give an object, not its class"
    protocol = _HOOKS[kind][1]
    missing = [f"no {name}" for name in protocol.__annotations__ if not hasattr(strategy, name)]
    for name, member in vars(protocol).items():
        if callable(member) and not name.startswith("_") and not callable(getattr(strategy, name, None)):
            missing.append(f"no {name}()")
    return ", ".join(missing)


# ---- asking the plugins


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}"


def _register(manager: pluggy.PluginManager, plugin: object) -> None:
    name = _name_of(plugin)
    try:
        if plugin is None:
            raise ValueError("None is no plugin")
        # Two objects of one class are two plugins.
        taken = {known for known, _ in manager.list_name_plugin()}
        unique = name if name not in taken or manager.is_registered(plugin) else f"{name} ({id(plugin):#x})"
        manager.register(plugin, unique)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(name, _misspelt(manager, plugin) or str(error)) from error
    except ValueError as error:
        raise PluginError(name, "is given twice" if manager.is_registered(plugin) else str(error)) from error


def _misspelt(manager: pluggy.PluginManager, plugin: object) -> str | None:
    unknown = [caller.name for caller in manager.get_hookcallers(plugin) or () if not caller.has_spec()]
    if not unknown:
        return None
    known = [name for name in vars(hookspecs) if name.startswith("trio_sup_")]
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"there is no hook {unknown[0]!r}; {hint}"


def _answers(
    manager: pluggy.PluginManager, hook: str, arguments: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[str, Any]]:
    """Ask each plugin by itself, so that the one that fails can be named; the one that counts comes last."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        name = implementation.plugin_name
        try:
            answer = implementation.function(*(arguments[argument] for argument in implementation.argnames))
        except Exception as error:
            raise PluginError(name, f"its hook {hook} raised {error!r}") from error
        yield name, answer


def _offers(
    manager: pluggy.PluginManager, hook: str, arguments: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, _Offer]:
    offers: dict[str, _Offer] = {}
    for name, answer in _answers(manager, hook, arguments):
        if not isinstance(answer, Mapping) or not all(isinstance(key, str) and key for key in answer):
            raise PluginError(
                name, f"its hook {hook} returned {reprlib.repr(answer)}, not a mapping from names to functions"
            )
        for key, factory in answer.items():
            if not callable(factory):
                raise PluginError(
                    name, f"its hook {hook} offers {reprlib.repr(factory)} as {key!r}: it cannot be called"
                )
            offers[key] = _Offer(name, factory)
    return offers


def _factories(offers: Mapping[str, _Offer]) -> dict[str, Factory]:
    return {name: offer.factory for name, offer in offers.items()}
