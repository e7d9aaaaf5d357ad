"""The built-in strategies, written as plugins."""

from __future__ import annotations

from types import ModuleType

from . import _gallery_sources, _install_locks, _ports, _probes, _restart_policies, _stop_policies, _warm_ups

PLUGINS: tuple[ModuleType, ...] = (
    _ports,
    _install_locks,
    _stop_policies,
    _probes,
    _restart_policies,
    _warm_ups,
    _gallery_sources,
)
"""Registered by every supervisor, before any other plugin."""

__all__ = ["PLUGINS"]
