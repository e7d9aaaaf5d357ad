"""Whatever grpclib and the network raise, as a `CallFailed`."""

from __future__ import annotations

import os
import re
from typing import Any

from grpclib.client import Stream
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import decode_grpc_message

from ..errors import CallFailed

_STATUS_OF_NUMBER = {str(status.value): status.name for status in Status}

# Source: "Errors" in the gRPC over HTTP/2 protocol; any other code is INTERNAL.
_STATUS_OF_RESET = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}


class PeerEnded(Exception):
    """The server has ended the call, so nothing can be sent any more; its answer can still be read."""

    def __str__(self) -> str:
        return "the server has already ended the call"


def call_failed(path: str, error: Exception, stream: Stream[Any, Any] | None) -> CallFailed:
    """Say in gRPC's words why a call failed; the status the server sent, if any, is the best reason."""
    if told := _told_by(stream):
        return CallFailed(path, *told)
    match error:
        case GRPCError():
            return CallFailed(path, error.status.name, error.message or "")
        case StreamTerminatedError():
            return CallFailed(path, *_why_terminated(str(error)))
        case OSError():
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            return CallFailed(path, "UNAVAILABLE", f"no connection: {why}")
        case PeerEnded():
            return CallFailed(path, "CANCELLED", str(error))
        case _:
            return CallFailed(path, "UNKNOWN", f"{type(error).__name__}: {error}")


def _told_by(stream: Stream[Any, Any] | None) -> tuple[str, str] | None:
    """The failure the server named, even if something else about its answer was wrong (grpclib's lacks a header)."""
    if stream is None or not stream._send_request_done:
        return None
    for headers in (stream._stream.trailers, stream._stream.headers):
        fields = dict(headers or ())
        number = fields.get("grpc-status", "0")
        if number != "0":
            return _STATUS_OF_NUMBER.get(number, "UNKNOWN"), decode_grpc_message(fields.get("grpc-message", ""))
    return None


def _why_terminated(reason: str) -> tuple[str, str]:
    if reason == "Protocol error":
        return "UNKNOWN", "the answer is not HTTP/2"
    if "by remote party" in reason:
        code = re.search(r"error_code: (\d+)", reason)
        number = int(code[1]) if code else -1
        return _STATUS_OF_RESET.get(number, "INTERNAL"), f"the server reset the call (code {number})"
    return "UNAVAILABLE", reason[:1].lower() + reason[1:]
