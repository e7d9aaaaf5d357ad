"""The built-in restart policies: what follows when a backend ends although nobody asked for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import attrs

from .._restarts import (
    REMEMBERED,
    Backoff,
    Intensity,
    failed_starts,
    fastest_pace,
    fastest_restarts,
    since_healthy,
)
from .._units import in_words
from .._wording import counted
from ..errors import InvalidValue
from ..hookspecs import hookimpl
from ..strategies import (
    AttemptEnd,
    GiveUp,
    RestartAfter,
    RestartPolicy,
    complaints_name_fields,
    seconds,
    seconds_above_zero,
)

_MAX_FACTOR = 1000
_SLOWEST_LOOP = 1.0
"""Seconds that each of endless restarts must take on average: nothing loops without a wait."""


def _to_factor(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 <= value <= _MAX_FACTOR:
        raise InvalidValue(value, f"expected a number from 1 to {_MAX_FACTOR}")
    return float(value)


def _to_jitter(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise InvalidValue(value, "expected a fraction of the wait: a number from 0 to below 1")
    return float(value)


def _to_limit(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < REMEMBERED:
        raise InvalidValue(value, f"expected a whole number from 0 to {REMEMBERED - 1}; 0 for no limit")
    return value


@attrs.frozen
class Never:
    """Leaves it ended."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> None:
        """See `RestartPolicy`."""


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Always:
    """Starts it again whenever it ends, also after a success; waits longer each time, and gives up at last.

    A wait is *delay* after the first end, and *factor* times the one before after each further end, up to *max_delay*.
    Two limits make it give up: restarts that come too fast, and starts that fail.

    Args:
        delay: Seconds, or text such as ``"500ms"``, before the first restart. 0 for no waits at all, and then *limit*
            must keep the restarts to one per second on average.
        factor: By what the wait grows with each end; 1 for waits of the same length.
        max_delay: Beyond this the wait does not grow.
        jitter: Fraction of each wait, also of the longest, by which chance shortens or lengthens it.
        healthy_after: Being ready for that long makes the waits short again, and forgets failed starts.
        limit: More restarts than that within *period* are one too many; 0 for no such limit.
        period: See *limit*.
        max_start_failures: Starts that failed since the last healthy stretch, whatever time they took, after which it
            gives up; 0 for no such limit.

    Raises:
        InvalidValue: A field makes no sense, or has no effect beside another one; the message names them.
    """

    delay: float = attrs.field(default=0.5, converter=seconds)
    factor: float = attrs.field(default=2.0, converter=_to_factor)
    max_delay: float = attrs.field(default=30.0, converter=seconds)
    jitter: float = attrs.field(default=0.1, converter=_to_jitter)
    healthy_after: float = attrs.field(default=10.0, converter=seconds)
    limit: int = attrs.field(default=5, converter=_to_limit)
    period: float = attrs.field(default=300.0, converter=seconds_above_zero)
    max_start_failures: int = attrs.field(default=5, converter=_to_limit)
    _backoff: Backoff = attrs.field(init=False, repr=False, eq=False)
    _intensity: Intensity = attrs.field(init=False, repr=False, eq=False)

    @_backoff.default
    def _make_backoff(self) -> Backoff:
        return Backoff(delay=self.delay, factor=self.factor, max_delay=self.max_delay, jitter=self.jitter)

    @_intensity.default
    def _make_intensity(self) -> Intensity:
        return Intensity(limit=self.limit, period=self.period)

    def __attrs_post_init__(self) -> None:
        self._refuse_waits()
        self._refuse_limits()

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter | GiveUp | None:
        """See `RestartPolicy`."""
        recent = since_healthy(ends, self.healthy_after)
        if self.max_start_failures and failed_starts(recent) >= self.max_start_failures:
            return GiveUp(f"{counted(self.max_start_failures, 'failed start')} in a row")
        if self._intensity.is_exceeded(ends):
            return GiveUp(f"more than {counted(self.limit, 'restart')} within {in_words(self.period)}")
        return RestartAfter(self._backoff.wait(len(recent), rng))

    def _refuse_waits(self) -> None:
        delay = in_words(self.delay)
        if self.delay == 0:
            for field in ("factor", "max_delay", "jitter"):
                if self._is_set(field) and getattr(self, field) > 0:
                    raise self._refusal(field, "has no effect with delay 0: leave it out, or raise delay")
        elif self.factor == 1:
            if self._is_set("max_delay") and self.max_delay != self.delay:
                why = f"has no effect with factor 1, delay is {delay} for good: leave it out, or raise factor"
                raise self._refusal("max_delay", why)
        elif self.max_delay < self.delay:
            why = f"must not be below delay ({delay}): raise max_delay, lower delay, or set factor to 1"
            raise self._refusal("max_delay", why)
        elif self.max_delay == self.delay:
            if self._is_set("factor"):
                why = f"has no effect, delay is max_delay ({delay}) already: leave it out, or raise max_delay"
                raise self._refusal("factor", why)
        elif self._backoff.mean(REMEMBERED) < self.max_delay:
            why = f"is not reached in {REMEMBERED} restarts with factor {self.factor}: raise factor, or lower max_delay"
            raise self._refusal("max_delay", why)

    def _refuse_limits(self) -> None:
        grows = self._backoff.mean(REMEMBERED) > self.delay
        if self._is_set("healthy_after") and not grows and not self.max_start_failures:
            why = "has no effect, since waits do not grow and max_start_failures is 0: leave it out, or change delay"
            raise self._refusal("healthy_after", why)
        if not self.limit:
            if self._is_set("period"):
                raise self._refusal("period", "has no effect with limit 0: leave it out, or raise limit")
        elif (fastest := fastest_restarts(self.limit, self._backoff, self.healthy_after)) >= self.period:
            why = f"is too short for limit, {counted(self.limit, 'restart')} take at least {in_words(fastest)}"
            raise self._refusal("period", f"{why}: raise period, or lower limit or delay")
        pace = fastest_pace(self._backoff, self.healthy_after)
        if pace < _SLOWEST_LOOP:
            why = f"restarts could follow each other every {in_words(pace)} without end: raise delay"
            if not self.limit:
                raise self._refusal("delay", f"{why}, or set limit and period")
            if self.period / self.limit < _SLOWEST_LOOP:
                least = self.limit * _SLOWEST_LOOP
                raise self._refusal("delay", f"{why}, or lower limit, or raise period to {in_words(least)} or more")

    def _is_set(self, field: str) -> bool:
        """Whether a field differs from its default: only what was meant to have an effect can lack it."""
        return bool(getattr(self, field) != getattr(attrs.fields(type(self)), field).default)

    def _refusal(self, field: str, why: str) -> InvalidValue:
        return InvalidValue(getattr(self, field), f"{field}: {why}")


@attrs.frozen(kw_only=True)
class OnFailure(Always):
    """As `Always`, but leaves it ended after a success: a code or signal that its specification counts as one."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter | GiveUp | None:
        """See `RestartPolicy`."""
        return None if ends[-1].success else super().decide(ends, rng)


@hookimpl(trylast=True)
def trio_sup_restart_policies() -> Mapping[str, Callable[..., RestartPolicy]]:
    """The policies of this module, by name."""
    return {"never": Never, "on-failure": OnFailure, "always": Always}
