"""The built-in probes keep the contract."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest

from trio_sup.defaults._exec_probe import ExecProbe
from trio_sup.defaults._http_probe import HttpProbe
from trio_sup.defaults._probes import GrpcHealthProbe, LocalAIProbe, TcpProbe
from trio_sup.strategies import Probe
from trio_sup.testing.contracts import ProbeContract

pytestmark = pytest.mark.slow

CONNECTS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    connection.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    answer = connection.recv(65536)
sys.exit(not answer.startswith(b"HTTP/1.1 200"))
"""


class TestLocalAI(ProbeContract):
    bad = ({"health": "LOADING"}, {"loading": 60.0}, {"hang_health": True}, {"http": 200}, {"garbage": True})

    def make(self) -> Probe:
        return LocalAIProbe()


class TestGrpcHealth(ProbeContract):
    bad = ({"http": 200}, {"garbage": True}, {"mute": True})

    def make(self) -> Probe:
        return GrpcHealthProbe()


class TestTcp(ProbeContract):
    good = ({}, {"mute": True})
    talks = False

    def make(self) -> Probe:
        return TcpProbe()


class TestHttp(ProbeContract):
    good = ({"http": 200, "health": "model loaded"},)
    bad = ({"http": 503, "health": "model loaded"}, {"http": 200, "health": "no"}, {}, {"mute": True})

    def make(self) -> Probe:
        probe: Any = HttpProbe(path="/", body="model loaded")  # its attribute is read-only, which is as good
        return cast(Probe, probe)


class TestExec(ProbeContract):
    good = ({"http": 200},)
    bad = ({"http": 503}, {"mute": True})

    def make(self) -> Probe:
        return ExecProbe((sys.executable, "-S", "-c", CONNECTS, "{host}", "{port}"))
