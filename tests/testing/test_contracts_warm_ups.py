"""The built-in warm-ups keep the contract."""

from __future__ import annotations

import pytest

from trio_sup.defaults._warm_ups import Call, LoadModel
from trio_sup.strategies import WarmUp
from trio_sup.testing.contracts import WarmUpContract

pytestmark = pytest.mark.slow


class TestCall(WarmUpContract):
    good = ({}, {"load_takes": 0.3})
    bad = ({"load_fails": True}, {"load_hangs": True}, {"http": 200})

    def make(self) -> WarmUp:
        return Call(rpc="LoadModel", request={"Model": "m"}, timeout=20)


class TestCallOfAnotherRpc(WarmUpContract):
    bad = ({"http": 200},)

    def make(self) -> WarmUp:
        return Call(rpc="/backend.Backend/Status", timeout="10s")


class TestLoadModel(WarmUpContract):
    good = ({}, {"load_takes": 0.3})
    bad = ({"load_fails": True}, {"load_hangs": True}, {"mute": True})

    def make(self) -> WarmUp:
        return LoadModel(model="m", options={"ContextSize": 512}, timeout=20)
