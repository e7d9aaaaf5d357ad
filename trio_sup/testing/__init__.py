"""What tests of plugins and of programs that embed trio-sup need.

`FakeSystem` and `FakeBackend` stand in for the operating system, and with `run_fast` hours pass in milliseconds.
`scripted_backend` is a real process that behaves as badly as it is told to.
The contracts (`trio_sup.testing.contracts`, which needs pytest and hypothesis) give a plugin's strategy its tests.
The fixtures of `trio_sup.testing.plugin` are there as soon as pytest and trio-sup are installed side by side.

The names load lazily: the scripted backend and pytest's own start do not pay for Trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._cancellation import cancel_at_every_step as cancel_at_every_step
    from ._fakes import FakeBackend as FakeBackend
    from ._fakes import FakeChannel as FakeChannel
    from ._fakes import FakeChild as FakeChild
    from ._fakes import FakePort as FakePort
    from ._fakes import FakeSystem as FakeSystem
    from ._fast import run_fast as run_fast
    from ._scripted import scripted_backend as scripted_backend

_HOMES = {
    "_cancellation": ("cancel_at_every_step",),
    "_fakes": ("FakeBackend", "FakeChannel", "FakeChild", "FakePort", "FakeSystem"),
    "_fast": ("run_fast",),
    "_scripted": ("scripted_backend",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
