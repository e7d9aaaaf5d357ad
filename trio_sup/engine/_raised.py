"""What plugin code raises, as the engine takes it: an `Exception` that can be shown."""

from __future__ import annotations

import trio


class Raised(Exception):
    """Stands for something raised that is no `Exception`, or that cannot be shown; the text says what it was."""

    def __repr__(self) -> str:
        return str(self)


def divided(error: BaseException, *, cancelled: bool = False) -> tuple[Exception | None, BaseException | None]:
    """Divide what a plugin raised into what is its own affair, and what has to travel on.

    Ctrl-C travels on, and so does a cancellation if the task is *cancelled*. All else is the plugin's own: SystemExit,
    the CancelledError of asyncio, and a Cancelled of another task that was kept and raised again.
    """
    travelling = (KeyboardInterrupt, trio.Cancelled) if cancelled else (KeyboardInterrupt,)
    if isinstance(error, Exception):
        return _shown(error), None
    if not isinstance(error, BaseExceptionGroup):
        return (None, error) if isinstance(error, travelling) else (_shown(error), None)
    own, others = error.split(lambda one: not isinstance(one, (BaseExceptionGroup, *travelling)))
    return None if own is None else _shown(own), others


def contained(error: BaseException) -> Exception:
    """What synchronous code of a plugin raised; raises it once more if it has to travel on."""
    own, others = divided(error)
    if own is None or others is not None:
        raise error
    return own


def in_words(error: BaseException) -> str:
    """What synchronous code of a plugin raised, with its class; raises it once more if it has to travel on."""
    own = contained(error)
    return str(own) if isinstance(own, Raised) else f"{type(own).__name__}: {own}"


def _shown(error: BaseException) -> Exception:
    try:
        text, _ = repr(error), str(error)
    except Exception:
        text = f"{type(error).__name__}, which cannot be shown"
    else:
        if isinstance(error, Exception):
            return error
    substitute = Raised(text)
    substitute.__cause__ = error
    return substitute
