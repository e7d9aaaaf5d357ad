"""`trio-sup demo`: the main job on two bundled backends, with proof that it was done."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs
import trio

from .._reports import StopReport
from .._values import BackendSpec, ProcessKey
from ..engine import Output, Supervisor, open_supervisor
from ..errors import StopFailed, TrioSupError
from ..protocol import backend_pb2 as pb
from ._leaves import leaves
from ._leftovers import left_of, supervisor_of
from ._signals import Signals
from ._stderr import say

MODEL = "demo"
REPLICAS = 2
CALL_TIMEOUT = 10.0
_SERVING = re.compile(rb"serving on \S+ at ([0-9.]+)\s")

_RED, _GREEN, _BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_REDDISH = (0.8, 0.6, 0.0)
_REDDISH_IS_RED = 0.8  # the cosine of the angle between the two


class CannotPrint(TrioSupError):
    """Stdout does not take what is to be shown."""


class WrongAnswer(TrioSupError):
    """A backend answered something else than what it had been told."""


@attrs.define
class _Shown:
    """What is reported of one backend; times in milliseconds."""

    key: str
    address: str | None
    pid: int | None
    start_ms: float | None
    ready_lag_ms: float | None = None
    stop_ms: float | None = None


def run_demo(*, as_json: bool) -> int:
    """Run the demo; returns 0 only if every answer was right and every process is gone, 130 after Ctrl-C."""
    demo = _Demo(say=_keep_quiet if as_json else _print_line)
    trio.run(demo.run)
    if as_json:
        _print(json.dumps(demo.document()))
    elif demo.error is not None:
        say(demo.error)
    if demo.interrupted_by is not None:
        return 128 + demo.interrupted_by
    return 0 if demo.ok else 1


def _keep_quiet(step: str, who: object, what: str, seconds: float | None = None) -> None:
    pass


def _print_line(step: str, who: object, what: str, seconds: float | None = None) -> None:
    took = "" if seconds is None else f"{seconds * 1000:>8.1f} ms"
    _print(f"{step:<6} {who!s:<7} {what:<64}{took}".rstrip())


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # What is still buffered must not fail once more when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise CannotPrint(f"cannot write to stdout: {error.strerror}") from error


class _Demo:
    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._shown: dict[ProcessKey, _Shown] = {}
        self._supervisors: set[bytes] = set()
        self._output: dict[ProcessKey, bytes] = {}
        self._serving = {ProcessKey(MODEL, replica): trio.Event() for replica in range(REPLICAS)}
        self._survivors: list[int] = []
        self.error: str | None = None
        self.interrupted_by: signal.Signals | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and not self._survivors

    def document(self) -> dict[str, Any]:
        backends = [attrs.asdict(shown) for _, shown in sorted(self._shown.items())]
        document = {"ok": self.ok, "backends": backends, "survivors": self._survivors}
        return document if self.error is None else {**document, "error": self.error}

    async def run(self) -> None:
        signals = Signals(signal.SIGINT, signal.SIGTERM)
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()
            nursery.start_soon(self._obey, signals, work)
            try:
                with work:
                    await self._work()
            except* (TrioSupError, OSError) as group:
                self.error = "\n".join(map(str, leaves(group)))
            nursery.cancel_scope.cancel(reason="the demo is over")
        if self.interrupted_by is not None:
            self.error = f"interrupted by {self.interrupted_by.name}"
        self._prove()

    async def _obey(self, signals: Signals, work: trio.CancelScope) -> None:
        self.interrupted_by = await signals.next()
        work.cancel(reason="interrupted")
        os._exit(128 + await signals.next())  # the supervisor's guard ends what is left

    async def _work(self) -> None:
        async with open_supervisor(on_output=self._listen) as supervisor:
            spec = BackendSpec(name=MODEL, command=[sys.executable, "-m", "trio_sup.backends.store"])
            async with trio.open_nursery() as nursery:
                for replica in range(REPLICAS):
                    nursery.start_soon(self._start, supervisor, spec, replica)
            for key in self._serving:
                await self._call(supervisor, key)
            await self._stop(supervisor)

    # ---- the steps

    async def _start(self, supervisor: Supervisor, spec: BackendSpec, replica: int) -> None:
        backend = await supervisor.start(spec, replica=replica)
        returned_at = time.monotonic()
        assert backend.pid is not None
        assert backend.start_seconds is not None
        shown = _Shown(str(backend.key), backend.address, backend.pid, _ms(backend.start_seconds))
        self._shown[backend.key] = shown
        if marker := supervisor_of(backend.pid):
            self._supervisors.add(marker)
        with trio.move_on_after(CALL_TIMEOUT) as wait_for_line:
            await self._serving[backend.key].wait()
        if wait_for_line.cancelled_caught:
            raise WrongAnswer(f"{backend.key} never said that it serves")
        lag = returned_at - self._served_at(backend.key)
        shown.ready_lag_ms = _ms(lag)
        what = f"pid {backend.pid} ready on {backend.address}, seen {shown.ready_lag_ms:.1f} ms after it was"
        self._say("start", backend.key, what, backend.start_seconds)

    def _listen(self, output: Output) -> None:
        seen = self._output[output.key] = self._output.get(output.key, b"") + output.data
        if _SERVING.search(seen):
            self._serving[output.key].set()

    def _served_at(self, key: ProcessKey) -> float:
        found = _SERVING.search(self._output[key])
        assert found is not None
        return float(found[1])  # time.monotonic() counts alike in all processes

    async def _call(self, supervisor: Supervisor, key: ProcessKey) -> None:
        """Each replica gets values of its own, so that an answer of the other one would be noticed."""

        def named(colour: str) -> bytes:
            return f"{colour} of {key}".encode()

        async def call(rpc: str, request: Any, reply_type: Any, what: str) -> Any:
            began = time.monotonic()
            reply = await channel.unary_unary(f"/backend.Backend/{rpc}", request, reply_type, timeout=CALL_TIMEOUT)
            self._say("call", key, f"{rpc}: {what}", time.monotonic() - began)
            return reply

        colours = {_RED: named("red"), _GREEN: named("green"), _BLUE: named("blue")}
        keys = [pb.StoresKey(Floats=vector) for vector in colours]
        values = [pb.StoresValue(Bytes=text) for text in colours.values()]
        async with supervisor.channel(key) as channel:
            stored = await call("StoresSet", pb.StoresSetOptions(Keys=keys, Values=values), pb.Result, "3 vectors")
            _expect(key, "StoresSet", stored.success, True)
            find = pb.StoresFindOptions(Key=pb.StoresKey(Floats=_REDDISH), TopK=1)
            found = await call("StoresFind", find, pb.StoresFindResult, f"{_REDDISH} is most like {_RED}")
            _expect(key, "StoresFind", [value.Bytes for value in found.Values], [named("red")])
            _expect(key, "StoresFind", [round(each, 5) for each in found.Similarities], [_REDDISH_IS_RED])
            gone = await call("StoresDelete", pb.StoresDeleteOptions(Keys=keys[1:2]), pb.Result, f"without {_GREEN}")
            _expect(key, "StoresDelete", gone.success, True)
            got = await call("StoresGet", pb.StoresGetOptions(Keys=keys), pb.StoresGetResult, "2 vectors left")
            left = {tuple(each.Floats): value.Bytes for each, value in zip(got.Keys, got.Values, strict=True)}
            _expect(key, "StoresGet", left, {_RED: named("red"), _BLUE: named("blue")})

    async def _stop(self, supervisor: Supervisor) -> None:
        reports: tuple[StopReport, ...] = ()
        try:
            reports = await supervisor.stop_all()
        except StopFailed as error:
            reports = tuple(error.reports)
            raise
        finally:
            for report in reports:
                if report.report is not None:
                    took = report.report.stop_seconds
                    self._shown[report.key].stop_ms = _ms(took)
                    self._say("stop", report.key, str(report.report.status), took)

    def _prove(self) -> None:
        pids = {shown.pid for shown in self._shown.values() if shown.pid is not None}
        began = time.monotonic()
        self._survivors = left_of(pids, self._supervisors)
        left = ", ".join(map(str, self._survivors))
        what = f"still running: {left}" if left else "nothing of them is left in /proc"
        self._say("proof", "", what, time.monotonic() - began)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _expect(key: ProcessKey, rpc: str, answer: object, right: object) -> None:
    if answer != right:
        raise WrongAnswer(f"{key} answered {rpc} with {answer!r}; right is {right!r}")
