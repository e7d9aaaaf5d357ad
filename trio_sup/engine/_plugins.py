"""The plugins of one supervisor: what they offer, and the strategies made from it."""

from __future__ import annotations

import contextlib
import inspect
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, Final, Literal, TypeAlias, cast, overload

import attrs
import pluggy

from .. import hookspecs
from .._structuring import InvalidTable, problems_of, structure
from .._values import Choice
from .._wording import instead_of
from ..errors import InvalidOptions, InvalidValue, TrioSupError, UnknownStrategy
from ..strategies import (
    GallerySource,
    InstallLock,
    LaunchPreparation,
    Observer,
    PortStrategy,
    Probe,
    RestartPolicy,
    Service,
    StopPolicy,
    WarmUp,
)
from ._raised import contained

Kind: TypeAlias = Literal[
    "port strategy",
    "install lock",
    "stop policy",
    "probe",
    "restart policy",
    "warm-up",
    "launch preparation",
    "gallery source",
]
Factory: TypeAlias = Callable[..., object]


@attrs.define(slots=False, eq=False)
class PluginError(TrioSupError):
    """A plugin cannot be used.

    Attributes:
        plugin: Its name: that of its entry point, module or class.
        distribution, version: What it was installed with, where that is known.
    """

    plugin: str
    why: str
    distribution: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"plugin {full_name(self.plugin, self.distribution, self.version)}: {self.why}"


def full_name(plugin: str, distribution: str | None, version: str | None) -> str:
    """How a plugin is named in messages: with its distribution and version where they are known."""
    return f"{plugin} ({distribution} {version or '(no version)'})" if distribution else plugin


@attrs.frozen
class LoadedPlugin:
    """A plugin, and where it came from.

    Attributes:
        name: That of its entry point or module.
        plugin: The module or object with the hooks.
        distribution, version: What it was installed with; None if that is not known.
    """

    name: str
    plugin: object
    distribution: str | None = None
    version: str | None = None


@attrs.frozen
class _Offer:
    plugin: str
    factory: Factory


_HOOKS: Final[Mapping[Kind, tuple[str, type]]] = {
    "port strategy": ("trio_sup_port_strategies", PortStrategy),
    "install lock": ("trio_sup_install_locks", InstallLock),
    "stop policy": ("trio_sup_stop_policies", StopPolicy),
    "probe": ("trio_sup_probes", Probe),
    "restart policy": ("trio_sup_restart_policies", RestartPolicy),
    "warm-up": ("trio_sup_warm_ups", WarmUp),
    "launch preparation": ("trio_sup_launch_preparations", LaunchPreparation),
    "gallery source": ("trio_sup_gallery_sources", GallerySource),
}
_KNOWN_HOOKS: Final = tuple(name for name in vars(hookspecs) if name.startswith("trio_sup_"))
HOOK_OF: Final[Mapping[Kind, str]] = {kind: hook for kind, (hook, _) in _HOOKS.items()}


class Plugins:
    """The built-in plugins and *extra* ones, asked once what they offer.

    Args:
        extra: Modules or objects with functions marked by `trio_sup.hookimpl`, or a `LoadedPlugin` of each. When two
            offer the same name, the later one wins, and any of them wins over a built-in.
        on_problem: Told of a plugin whose observers or services cannot be had; it goes on without them. By default
            the error is raised.

    Raises:
        PluginError: One has a misspelt or misshapen hook, was built for another version of the hooks, is given twice,
            or offers nonsense.
    """

    def __init__(
        self, extra: Iterable[object] = (), *, on_problem: Callable[[PluginError], None] | None = None
    ) -> None:
        # The built-ins are plugins like any other; only here does the engine know where they live.
        from .. import __version__, defaults

        manager = _Manager("trio_sup")
        manager.add_hookspecs(hookspecs)
        built_in = (LoadedPlugin(_name_of(plugin), plugin, "trio-sup", __version__) for plugin in defaults.PLUGINS)
        for plugin in (*built_in, *extra):
            _register(manager, plugin)
        self._on_problem = on_problem
        self._manager = manager
        self._offers = {kind: _offers(manager, hook) for kind, (hook, _) in _HOOKS.items()}
        commands = _offers(manager, "trio_sup_commands")
        self.commands: Mapping[str, Factory] = _factories(commands)
        """Subcommands of `trio-sup`, by name."""
        sections = _offers(manager, "trio_sup_config_sections")
        for name, offer in sections.items():
            if not (isinstance(offer.factory, type) and attrs.has(offer.factory)):
                raise manager.error(offer.plugin, f"its configuration section {name!r} is made by no attrs class")
        self.sections: Mapping[str, type] = {name: cast(type, offer.factory) for name, offer in sections.items()}
        """The attrs classes of the plugins' top-level tables of the configuration, by name."""
        self._by_hook: Mapping[str, Mapping[str, _Offer]] = {
            **{_HOOKS[kind][0]: offers for kind, offers in self._offers.items()},
            "trio_sup_commands": commands,
            "trio_sup_config_sections": sections,
        }

    def observers(self, sections: Mapping[str, Any]) -> Sequence[tuple[str, Observer]]:
        """The observers of all plugins, each with the name of its plugin.

        Raises:
            PluginError: A hook raised, or gave something else.
        """
        found: list[tuple[str, Observer]] = []
        for implementation in self._manager.hook.trio_sup_observers.get_hookimpls():
            with self._contained():
                plugin, answer = _ask(self._manager, implementation, {"sections": sections})
                if not isinstance(answer, Sequence) or not all(map(callable, answer)):
                    raise self.error(
                        plugin, f"its hook trio_sup_observers returned {reprlib.repr(answer)}, not functions"
                    )
                found += [(plugin, observer) for observer in answer]
        return found

    def services(self, sections: Mapping[str, Any]) -> Sequence[tuple[str, str, Service]]:
        """The services of all plugins: plugin, name and function.

        Raises:
            PluginError: A hook raised, or gave something else.
        """
        found: dict[str, _Offer] = {}
        for implementation in self._manager.hook.trio_sup_services.get_hookimpls():
            with self._contained():
                found.update(_offers_of(self._manager, implementation, {"sections": sections}))
        # A service is any callable until it is called.
        return [(offer.plugin, name, cast(Service, offer.factory)) for name, offer in found.items()]

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except PluginError as error:
            if self._on_problem is None:
                raise
            self._on_problem(error)

    def error(self, plugin: str, why: str) -> PluginError:
        """An error about the plugin of that name, which says where it came from."""
        return self._manager.error(plugin, why)

    def error_of(self, kind: Kind, choice: Any, why: str) -> PluginError:
        """An error about a chosen strategy, which says where its plugin came from."""
        plugin = self.offered_by(kind, choice.name) if isinstance(choice, Choice) else _name_of(choice)
        return self.error(plugin, why)

    def loaded(self) -> Sequence[LoadedPlugin]:
        """All plugins, the built-in ones first, then in the order in which they were given."""
        return tuple(self._manager.origins.values())

    def hooks_answered(self) -> Mapping[str, Sequence[str]]:
        """The names of the hooks that each plugin answers, by the plugin's name."""
        return {
            name: sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or ())
            for name, plugin in self._manager.list_name_plugin()
        }

    def offers_of(self, plugin: str) -> Mapping[str, Sequence[str]]:
        """By hook, the names that the plugin called *plugin* offers and that no later plugin has taken over.

        Observers and services are not among them: they have no use before a supervisor opens.
        """
        return {
            hook: names
            for hook, offers in self._by_hook.items()
            if (names := sorted(name for name, offer in offers.items() if offer.plugin == plugin))
        }

    def command_from(self, name: str) -> str:
        """The name of the plugin that gives the subcommand *name*."""
        return self._by_hook["trio_sup_commands"][name].plugin

    def section_from(self, name: str) -> str:
        """The name of the plugin whose configuration section *name* is."""
        return self._by_hook["trio_sup_config_sections"][name].plugin

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
    def make(self, kind: Literal["restart policy"], choice: Any) -> RestartPolicy: ...
    @overload
    def make(self, kind: Literal["warm-up"], choice: Any) -> WarmUp: ...
    @overload
    def make(self, kind: Literal["launch preparation"], choice: Any) -> LaunchPreparation: ...
    @overload
    def make(self, kind: Literal["gallery source"], choice: Any) -> GallerySource: ...
    @overload
    def make(self, kind: Kind, choice: Any, path: str = "") -> object: ...
    def make(self, kind: Kind, choice: Any, path: str = "") -> object:
        """Make the strategy that *choice* names; anything but a `Choice` is taken for the strategy itself.

        Args:
            path: Where the choice stands; prefixed to the path of every problem with its options.

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
            made = _build(offer.factory, choice.options, path)
        except InvalidTable as error:
            raise InvalidOptions(kind, choice.name, error.problems) from error
        except (InvalidValue, TypeError, ValueError) as error:
            raise InvalidOptions(kind, choice.name, problems_of(error, path)) from error
        except BaseException as error:
            why = f"could not make the {kind} {choice.name!r}: {contained(error)!r}"
            raise self.error(offer.plugin, why) from error
        if lacks := _lacks(kind, made):
            raise self.error(offer.plugin, f"made {reprlib.repr(made)} for the {kind} {choice.name!r}: it has {lacks}")
        return made

    def _offer(self, kind: Kind, name: str) -> _Offer:
        offers = self._offers[kind]
        if name not in offers:
            raise UnknownStrategy(kind, name, sorted(offers))
        return offers[name]


def _build(factory: Factory, options: Mapping[str, Any], path: str) -> object:
    if not (isinstance(factory, type) and attrs.has(factory)):
        return factory(**options)
    required = any(field.init and field.default is attrs.NOTHING for field in attrs.fields(factory))
    # cattrs is not imported by those who set no option.
    return structure(factory, options, path) if options or required else factory()


def _lacks(kind: Kind, strategy: object) -> str:
    """What an object lacks to be a strategy of *kind*, for a message; empty if nothing."""
    if isinstance(strategy, type):
        return "not been made yet: give an object, not its class"
    protocol = _HOOKS[kind][1]
    missing = []
    for name, member in vars(protocol).items():
        if isinstance(member, property) and not hasattr(strategy, name):
            missing.append(f"no {name}")
        if callable(member) and not name.startswith("_") and not callable(getattr(strategy, name, None)):
            missing.append(f"no {name}()")
    return ", ".join(missing)


# ---- asking the plugins


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}"


class _Manager(pluggy.PluginManager):
    """Knows where each plugin came from, by name."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self.origins: dict[str, LoadedPlugin] = {}

    def error(self, name: str, why: str) -> PluginError:
        origin = self.origins.get(name) or LoadedPlugin(name, None)
        return PluginError(name, why, origin.distribution, origin.version)


def _register(manager: _Manager, given: object) -> None:
    origin = given if isinstance(given, LoadedPlugin) else LoadedPlugin(_name_of(given), given)
    name, plugin = origin.name, origin.plugin
    registered = manager.is_registered(plugin)
    try:
        if plugin is None:
            raise ValueError("None is no plugin")
        _check_version(plugin)
        # Two objects of one class are two plugins.
        unique = name if name not in manager.origins or registered else f"{name} ({id(plugin):#x})"
        manager.register(plugin, unique)
        manager.check_pending()
        _check_marks(manager, plugin)
    except pluggy.PluginValidationError as error:
        raise _about(origin, _misspelt(manager, plugin) or str(error)) from error
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        raise _about(origin, "is given twice" if registered else why) from error
    manager.origins[unique] = attrs.evolve(origin, name=unique)


def _about(origin: LoadedPlugin, why: str) -> PluginError:
    return PluginError(origin.name, why, origin.distribution, origin.version)


def _check_version(plugin: object) -> None:
    version = getattr(plugin, "trio_sup_hook_version", hookspecs.HOOK_VERSION)
    if version != hookspecs.HOOK_VERSION:
        raise ValueError(
            f"was built for version {version!r} of the hooks; this trio-sup has version {hookspecs.HOOK_VERSION}"
        )


def _check_marks(manager: pluggy.PluginManager, plugin: object) -> None:
    answered = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    for name in _KNOWN_HOOKS:
        function = getattr(plugin, name, None)
        if name not in answered and callable(function) and function is not getattr(hookspecs, name):
            raise ValueError(f"its {name} lacks the mark @hookimpl, and would never be called")


def _misspelt(manager: pluggy.PluginManager, plugin: object) -> str | None:
    unknown = [caller.name for caller in manager.get_hookcallers(plugin) or () if not caller.has_spec()]
    if not unknown:
        return None
    return f"there is no hook {unknown[0]!r}; {instead_of(unknown[0], _KNOWN_HOOKS)}"


def _ask(manager: _Manager, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> tuple[str, Any]:
    """Ask one plugin by itself, so that the one that fails can be named."""
    name, hook = implementation.plugin_name, _hook_of(implementation)
    try:
        answer = implementation.function(*(arguments[argument] for argument in implementation.argnames))
    except BaseException as error:
        raise manager.error(name, f"its hook {hook} raised {contained(error)!r}") from error
    if inspect.iscoroutine(answer):
        answer.close()
        raise manager.error(name, f"its hook {hook} is asynchronous, and has to be a plain function")
    return name, answer


def _hook_of(implementation: pluggy.HookImpl) -> str:
    return str(implementation.opts["specname"] or implementation.function.__name__)


def _offers(manager: _Manager, hook: str) -> dict[str, _Offer]:
    offers: dict[str, _Offer] = {}
    # The one that counts comes last.
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        offers.update(_offers_of(manager, implementation, MappingProxyType({})))
    return offers


def _offers_of(manager: _Manager, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> dict[str, _Offer]:
    plugin, answer = _ask(manager, implementation, arguments)
    hook = _hook_of(implementation)
    if not isinstance(answer, Mapping) or not all(isinstance(key, str) and key for key in answer):
        raise manager.error(
            plugin, f"its hook {hook} returned {reprlib.repr(answer)}, not a mapping from names to functions"
        )
    for key, factory in answer.items():
        if not callable(factory):
            raise manager.error(
                plugin, f"its hook {hook} offers {reprlib.repr(factory)} as {key!r}: it cannot be called"
            )
    return {key: _Offer(plugin, factory) for key, factory in answer.items()}


def _factories(offers: Mapping[str, _Offer]) -> dict[str, Factory]:
    return {name: offer.factory for name, offer in offers.items()}
