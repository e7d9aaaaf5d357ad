"""Messages to bytes and back, with the limit that both sides keep."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError

from ..protocol import MESSAGE_LIMIT_BYTES


def check_size(size: int) -> None:
    """Refuse a message of *size* bytes if it is longer than both sides agreed on."""
    if size > MESSAGE_LIMIT_BYTES:
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is longer than the limit of {MESSAGE_LIMIT_BYTES}"
        )


class Codec(ProtoCodec):
    def encode(self, message: Any, message_type: Any) -> bytes:
        data: bytes = super().encode(message, message_type)
        check_size(len(data))
        return data

    def decode(self, data: bytes, message_type: Any) -> Any:
        try:
            return super().decode(data, message_type)
        except DecodeError as error:
            name = message_type.DESCRIPTOR.full_name
            raise GRPCError(Status.INTERNAL, f"the answer is not a {name}: {error}") from error
