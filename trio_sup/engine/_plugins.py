"""The plugins of one supervisor: what they offer, and the strategies made from it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias, overload

import attrs
import pluggy

from .. import hookspecs
from .._structuring import InvalidTable, problems_of, structure
from .._values import Choice
from ..errors import InvalidOptions, InvalidValue, TrioSupError, UnknownStrategy
from ..strategies import InstallLock, PortStrategy, Probe, StopPolicy

Kind: TypeAlias = Literal["port strategy", "install lock", "stop policy", "probe"]
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
}


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
        self._offers = {kind: _offers(manager, hook) for kind, (hook, _) in _HOOKS.items()}

    def offered(self, kind: Kind) -> Mapping[str, Factory]:
        """What makes a strategy of *kind*, by name."""
        return {name: offer.factory for name, offer in self._offers[kind].items()}

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
    known = [hook for hook, _ in _HOOKS.values()]
    near = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"there is no hook {unknown[0]!r}; {hint}"


def _offers(manager: pluggy.PluginManager, hook: str) -> dict[str, _Offer]:
    """Ask each plugin by itself, so that the one that fails can be named; the one that counts comes last."""
    offers: dict[str, _Offer] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        name = implementation.plugin_name
        try:
            answer = implementation.function()
        except Exception as error:
            raise PluginError(name, f"its hook {hook} raised {error!r}") from error
        if not isinstance(answer, Mapping) or not all(isinstance(key, str) and key for key in answer):
            raise PluginError(
                name, f"its hook {hook} returned {reprlib.repr(answer)}, not a mapping from names to factories"
            )
        for key, factory in answer.items():
            if not callable(factory):
                raise PluginError(
                    name, f"its hook {hook} offers {reprlib.repr(factory)} as {key!r}: it cannot be called"
                )
            offers[key] = _Offer(name, factory)
    return offers
