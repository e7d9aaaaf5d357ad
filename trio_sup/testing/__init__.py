"""What tests of plugins and of programs that embed trio-sup need.

`FakeSystem` and `FakeBackend` stand in for the operating system, and with `run_fast` hours pass in milliseconds.
`scripted_backend` is a real process that behaves as badly as it is told to.
The contracts (`trio_sup.testing.contracts`, which needs pytest and hypothesis) give a plugin's strategy its tests.
The fixtures of `trio_sup.testing.plugin` are there as soon as pytest and trio-sup are installed side by side.

The names load lazily: the scripted backend and pytest's own start do not pay for Trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

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
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
