"""The built-in ways to tell that a process may take calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import trio

from ..errors import InvalidValue
from ..hookspecs import hookimpl
from ..protocol import HEALTH, HEALTH_CHECK, backend_pb2, health_pb2
from ..strategies import Probe, ProbeTarget, complaints_name_fields
from ._check_failed import CheckFailed, shortened
from ._exec_probe import ExecProbe
from ._http_probe import HttpProbe


@attrs.frozen
class LocalAIProbe:
    """Ready when the backend's own Health answers exactly ``OK``, as LocalAI demands."""

    needs_listener = True
    speaks_grpc = True

    async def check(self, target: ProbeTarget) -> None:
        reply = await target.channel.unary_unary(
            HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=target.call_timeout
        )
        if reply.message != b"OK":
            raise CheckFailed(f"Health answered {shortened(repr(reply.message))} instead of b'OK'")


def _to_service(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue(value, "expected the name of a service, or an empty text for the whole server")
    return value


@attrs.frozen(field_transformer=complaints_name_fields)
class GrpcHealthProbe:
    """Ready when the standard gRPC health service says SERVING.

    Args:
        service: Which service to ask about; empty for the server as a whole.
    """

    service: str = attrs.field(default="", converter=_to_service)
    needs_listener = True
    speaks_grpc = True

    async def check(self, target: ProbeTarget) -> None:
        reply = await target.channel.unary_unary(
            HEALTH_CHECK,
            health_pb2.HealthCheckRequest(service=self.service),
            health_pb2.HealthCheckResponse,
            timeout=target.call_timeout,
        )
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            names = health_pb2.HealthCheckResponse.ServingStatus
            known = reply.status in names.values()
            about = f"service {self.service!r}" if self.service else "the server"
            raise CheckFailed(f"{about} is {names.Name(reply.status) if known else f'in unknown state {reply.status}'}")


@attrs.frozen
class TcpProbe:
    """Ready when something listens on the port and belongs to the backend.

    Nothing connects: a connection that is closed at once is rude to a simple server.
    """

    needs_listener = True
    speaks_grpc = False

    async def check(self, target: ProbeTarget) -> None:
        await trio.lowlevel.checkpoint()


@hookimpl(trylast=True)
def trio_sup_probes() -> Mapping[str, Callable[..., Probe]]:
    return {
        "localai": LocalAIProbe,
        "grpc-health": GrpcHealthProbe,
        "tcp": TcpProbe,
        "http": HttpProbe,
        "exec": ExecProbe,
    }
