"""Getting a release from one of the places where it may be: each is tried until one delivers it."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from .._gallery_errors import DownloadFailed, InstallFailed, NotProven
from .._releases import InstallPhase, OnProgress, UnpackLimits
from .._units import bytes_in_words
from ..errors import InvalidValue, TrioSupError
from ..strategies import Fetch, Fetched, GallerySource
from ._boxes import Box
from ._meter import Meter
from ._planning import Plan
from ._run_script import check_run_script
from ._store import Store
from ._uris import Address, address_of, in_words

SourceOf = Callable[[str, str], GallerySource]
"""The source for an address and its scheme; raises `UnknownSource` if there is none."""
RELEASE = "release"
"""What a release is called in its box."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@attrs.frozen
class Candidate:
    """A place where a release may be.

    Attributes:
        proof: What will prove that it is what was meant; None if nothing will.
    """

    address: Address
    source: GallerySource
    proof: str | None


@attrs.frozen
class Failure:
    """Why a place did not deliver."""

    place: str
    error: Exception


def candidates_for(
    plan: Plan, source_of: SourceOf, *, require_integrity: bool, here: Path | None = None
) -> tuple[Sequence[Candidate], Sequence[Failure]]:
    """The places to try, and those that are not to be, decided before a byte is written.

    Raises:
        NotProven, UnknownSource, InvalidValue, InstallFailed: None is left to try.
    """
    found: list[Candidate] = []
    failures: list[Failure] = []
    for place in plan.addresses:
        try:
            address = address_of(place)
            if address is None:
                raise InvalidValue(in_words(place), "this is no address")
            source = source_of(address.uri, address.scheme)
            proof = source.proof(address.uri, sha256=plan.sha256, verification=plan.verification)
        except Exception as error:
            failures.append(Failure(place, _own(error, place)))
            continue
        if proof is None and require_integrity:
            failures.append(Failure(place, NotProven(in_words(place), _what_would_prove(plan))))
        else:
            found.append(Candidate(address, source, proof))
    if not found:
        raise all_failed(plan.asked, failures)
    return found, failures


def _what_would_prove(plan: Plan) -> str:
    if plan.verification:
        return "its source cannot verify the signature that the gallery asks for"
    return "give a sha256, pin the digest in its address, or use a gallery that signs"


def all_failed(what: str, failures: Sequence[Failure]) -> Exception:
    """One error for all *failures*; its cause has each of them."""
    if len(failures) == 1:
        return failures[0].error
    errors = [failure.error for failure in failures]
    why = "; ".join(f"{in_words(failure.place)}: {_reason(failure.error)}" for failure in failures)
    failed: InstallFailed
    if all(isinstance(error, NotProven) for error in errors):
        failed = NotProven(what, why)
    elif all(isinstance(error, DownloadFailed) for error in errors):
        temporary = any(isinstance(error, DownloadFailed) and error.temporary for error in errors)
        failed = DownloadFailed(what, why, temporary)
    else:
        failed = InstallFailed(what, f"no place delivered it: {why}")
    failed.__cause__ = ExceptionGroup("every place that was tried failed", errors)
    return failed


def _reason(error: Exception) -> str:
    # The places are named already; errors whose text says more than their reason are taken whole.
    return error.why if type(error) in (DownloadFailed, InstallFailed, NotProven) else str(error)  # type: ignore[attr-defined]


def _own(error: Exception, place: str) -> Exception:
    if isinstance(error, TrioSupError):
        return error
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        failed = InstallFailed(in_words(place), f"{error.filename}: {text}" if error.filename else text)
    else:
        failed = InstallFailed(in_words(place), f"its source failed with {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


@attrs.define(eq=False, kw_only=True)
class Obtaining:
    """Tries one place after the other.

    Args:
        told: Of how far it has come; what it raises ends the attempt.
    """

    plan: Plan
    store: Store
    box: Box
    limits: UnpackLimits
    told: OnProgress
    now: Callable[[], float] = time.monotonic

    async def obtain(self, candidates: Sequence[Candidate], failures: Sequence[Failure]) -> Fetched:
        """Fill the box with a release from the first place that delivers one.

        Args:
            failures: Of those that are not to be tried.

        Raises:
            InstallFailed, InvalidValue, UnknownSource: None delivered.

        Cancellation: what was downloaded stays for the next time.
        """
        failed = list(failures)
        for candidate in candidates:
            try:
                return await self._try(candidate)
            except OSError as error:
                if error.errno in _FULL:
                    raise InstallFailed(
                        self.plan.asked, f"there is no room left for it in {self.store.backends_dir}"
                    ) from error
                failed.append(Failure(candidate.address.uri, _own(error, candidate.address.uri)))
            except _NoRoom as error:
                raise InstallFailed(self.plan.asked, str(error)) from None
            except _ListenerFailed as error:
                raise error.error from None
            except Exception as error:
                failed.append(Failure(candidate.address.uri, _own(error, candidate.address.uri)))
        raise all_failed(self.plan.asked, failed)

    async def _try(self, candidate: Candidate) -> Fetched:
        uri = candidate.address.uri
        attempt = _Attempt(self.store.backends_dir)
        meter = Meter(self.plan.asked, self.told, failed=attempt.listener_failed, now=self.now)
        try:
            with attempt.scope:
                unproven = "" if candidate.proof is not None else ", which nothing proves"
                meter.tell(InstallPhase.RESOLVING, detail=f"{in_words(uri)}{unproven}")

                def waiting(what: str) -> None:
                    meter.tell(InstallPhase.WAITING, detail=what, always=False)

                async with self.store.scratch(uri, waiting=waiting) as scratch:
                    into = self.box.fresh(RELEASE)

                    def report(phase: InstallPhase, done: int, total: int | None) -> None:
                        meter.report(phase, done, total)
                        attempt.watch_room(phase, done, total)

                    fetch = Fetch(
                        uri=uri,
                        into=into,
                        scratch=scratch.path,
                        sha256=self.plan.sha256,
                        verification=self.plan.verification,
                        limits=self.limits,
                        report=report,
                    )
                    try:
                        fetched = await candidate.source.fetch(fetch)
                        check_run_script(into, in_words(uri))
                    except DownloadFailed:
                        raise
                    except InstallFailed:
                        scratch.discard()  # what is not what was meant, or hostile, is not gone on with
                        raise
        finally:
            meter.close()
        attempt.raise_error()
        _refuse_nonsense(fetched, uri)
        return fetched


def _refuse_nonsense(fetched: Any, uri: str) -> None:
    if not (
        isinstance(fetched, Fetched)
        and isinstance(fetched.uri, str)
        and (fetched.digest is None or isinstance(fetched.digest, str))
    ):
        raise InstallFailed(in_words(uri), f"its source returned {fetched!r} instead of a Fetched")


class _NoRoom(Exception):
    pass


@attrs.define(eq=False)
class _ListenerFailed(Exception):
    error: Exception


@attrs.define(eq=False)
class _Attempt:
    """What may end an attempt from outside: a disk that is too small, a listener that raises."""

    directory: Path
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _trio: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)
    _seen: tuple[InstallPhase, int] | None = attrs.field(default=None, init=False)

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def listener_failed(self, error: Exception) -> None:
        self._error = _ListenerFailed(error)
        self.scope.cancel(reason="whoever is told of it failed")

    def watch_room(self, phase: InstallPhase, done: int, total: int | None) -> None:
        """Look once per phase and total whether there is room for the rest; from any thread."""
        if total is None or phase not in (InstallPhase.DOWNLOADING, InstallPhase.UNPACKING):
            return
        if self._seen == (phase, total):
            return
        self._seen = phase, total
        free = shutil.disk_usage(self.directory).free
        if total - done > free:
            self._error = _NoRoom(
                f"it needs {bytes_in_words(total - done)}, and {self.directory} has {bytes_in_words(free)} left"
            )
            with suppress(trio.RunFinishedError):  # a thread that nobody waits for any more
                self._trio.run_sync_soon(self.scope.cancel)
