"""What the tests of the probes share."""

from __future__ import annotations

import os
from typing import Any, cast

from trio_sup import BackendSpec, ProcessKey
from trio_sup.bridge import Channel
from trio_sup.strategies import ProbeTarget


def target(port: int, *, channel: Channel | None = None, call_timeout: float = 5.0, **fields: Any) -> ProbeTarget:
    """A target on loopback; probes that speak no gRPC get no channel."""
    return ProbeTarget(
        key=ProcessKey("m"),
        spec=BackendSpec(name="m", command=["m"], **fields),
        pid=os.getpid(),
        host="127.0.0.1",
        port=port,
        address=f"127.0.0.1:{port}",
        channel=cast(Channel, channel),
        environment={**os.environ, "COLOUR": "mauve"},
        call_timeout=call_timeout,
    )
