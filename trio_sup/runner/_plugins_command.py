"""`trio-sup plugins`: what is installed, what it offers, and what of it is in use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._values import Choice
from ..engine._loading import PluginProblem
from ..engine._plugins import HOOK_OF, Plugins
from ._settings import Config
from ._table import NOTHING, table


def show_plugins(plugins: Plugins, problems: Sequence[PluginProblem], config: Config | None, *, as_json: bool) -> None:
    """Print every plugin, the built-in ones first, and the problems of those that were left out.

    Args:
        config: What tells which strategies are in use; None if there is no usable configuration.
        as_json: One JSON document instead of a table.
    """
    entries = [_entry(plugins, loaded, config) for loaded in plugins.loaded()]
    if as_json:
        failed = [
            {key: getattr(problem, key) for key in ("name", "distribution", "version", "why", "required")}
            for problem in problems
        ]
        print(json.dumps({"plugins": entries, "problems": failed}, indent=2))
        return
    print("\n".join(table(_rows(entries, config is not None))))
    if problems:
        print("\nNot loaded, or not wholly:")
        for problem in problems:
            print(f"  {problem}")


def _entry(plugins: Plugins, loaded: Any, config: Config | None) -> dict[str, Any]:
    offers = plugins.offers_of(loaded.name)
    return {
        "name": loaded.name,
        "distribution": loaded.distribution,
        "version": loaded.version,
        "hooks": list(plugins.hooks_answered()[loaded.name]),
        "offers": offers,
        "in_use": None if config is None else _in_use(offers, config),
    }


def _in_use(offers: Mapping[str, Sequence[str]], config: Config) -> dict[str, list[str]]:
    chosen = {(HOOK_OF[kind], choice.name) for kind, choice in config.strategies() if isinstance(choice, Choice)}
    chosen |= {("trio_sup_config_sections", name) for name in config.sections}
    used = {hook: [name for name in names if (hook, name) in chosen] for hook, names in offers.items()}
    return {hook: names for hook, names in used.items() if names}


def _rows(entries: Iterable[Mapping[str, Any]], with_use: bool) -> list[list[str]]:
    rows = [["PLUGIN", "FROM", "HOOK", "OFFERS", *(["IN USE"] if with_use else [])]]
    for entry in entries:
        who = [entry["name"], " ".join(filter(None, (entry["distribution"], entry["version"]))) or NOTHING]
        for hook in entry["hooks"] or [NOTHING]:
            row = [*who, hook.removeprefix("trio_sup_"), _listed(entry["offers"], hook)]
            rows.append([*row, _listed(entry["in_use"], hook)] if with_use else row)
            who = ["", ""]
    return rows


def _listed(names: Mapping[str, Sequence[str]], hook: str) -> str:
    return ", ".join(names.get(hook, ())) or NOTHING
