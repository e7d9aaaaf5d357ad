"""The built-in warm-ups: calls that are made after each start, before READY."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from .._structuring import InvalidTable
from .._values import to_bool
from ..errors import CallFailed, InvalidValue
from ..hookspecs import hookimpl
from ..protocol import LOAD_MODEL, backend_pb2
from ..strategies import WarmUp, WarmUpTarget, complaints_name_fields, seconds_above_zero
from ._check_failed import shortened
from ._request_tables import nearest, request_from

if TYPE_CHECKING:
    from .._values import BackendSpec

_SPARE = 1.0
"""Seconds on top of the call's own bound, so that it is the call that tells of it."""

_MESSAGE_LIMIT = 1000
"""Characters of what a backend says that are shown; it may say pages."""

_SERVICE: Final = backend_pb2.DESCRIPTOR.services_by_name["Backend"]
_METHODS: Final[Mapping[str, MethodDescriptor]] = {method.name: method for method in _SERVICE.methods}

_log = logging.getLogger("trio_sup.warm_up")


class WarmUpRefused(Exception):
    """The backend may not be used; the text says why."""


class _Unimplemented(WarmUpRefused):
    """It does not offer the RPC."""


def _to_method(value: object) -> str:
    """The name of an RPC that takes one request, from its name or its path."""
    if not isinstance(value, str):
        raise InvalidValue(value, "expected the name of an RPC")
    service, slash, name = value.removeprefix("/").rpartition("/")
    if slash and service != _SERVICE.full_name:
        raise InvalidValue(value, f"expected an RPC of {_SERVICE.full_name}, such as {LOAD_MODEL!r}")
    callable_names = [known for known, method in _METHODS.items() if not method.client_streaming]
    if name in callable_names:
        return name
    if name in _METHODS:
        raise InvalidValue(value, "the client of this RPC sends a stream of requests; a warm-up sends one request")
    near = nearest(name, callable_names)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(callable_names)}"
    raise InvalidValue(value, f"{_SERVICE.full_name} has no such RPC; {hint}")


def _to_table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValue(value, "expected a table")
    return dict(value)


def _to_model(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise InvalidValue(value, "expected the name or the path of a model")
    return value


@attrs.frozen(field_transformer=complaints_name_fields)
class Call:
    """One call to the backend; it is warm when the call has succeeded.

    Args:
        rpc: Name of an RPC of the `backend.Backend` service, or its whole path. The client must not stream; if the
            server does, its messages are read to the end.
        request: The fields of the request, by their names in the contract.
        timeout: Seconds that the call may take.
        accept_unimplemented: Whether a backend that does not offer the RPC counts as warm.
    """

    rpc: str = attrs.field(converter=_to_method)
    request: Mapping[str, Any] = attrs.field(factory=dict, converter=_to_table, hash=False)
    timeout: float = attrs.field(default=600.0, converter=seconds_above_zero)
    accept_unimplemented: bool = attrs.field(default=False, converter=to_bool)
    _message: Message = attrs.field(init=False, eq=False, repr=False)

    @_message.default
    def _make_message(self) -> Message:
        return request_from(_METHODS[self.rpc].input_type, self.request, "request")

    def budget(self, spec: BackendSpec) -> float:
        return self.timeout + _SPARE

    async def warm_up(self, target: WarmUpTarget) -> None:
        try:
            await _call(target, self.rpc, self._message, self.timeout)
        except _Unimplemented as error:
            if not self.accept_unimplemented:
                raise
            _log.debug("%s: %s", target.key, error)


@attrs.frozen(field_transformer=complaints_name_fields)
class LoadModel:
    """LoadModel, so that a backend that was restarted has its model again.

    Args:
        model: The field `Model`: which one to load.
        options: The other fields of `ModelOptions`, by their names in the contract.
        timeout: Seconds that it may take.
    """

    model: str = attrs.field(converter=_to_model)
    options: Mapping[str, Any] = attrs.field(factory=dict, converter=_to_table, hash=False)
    timeout: float = attrs.field(default=600.0, converter=seconds_above_zero)
    _message: Message = attrs.field(init=False, eq=False, repr=False)

    @_message.default
    def _make_message(self) -> Message:
        if "Model" in self.options:
            raise InvalidTable("options", ["options.Model: it is given as model; leave this out"])
        return request_from(_METHODS["LoadModel"].input_type, {**self.options, "Model": self.model}, "options")

    def budget(self, spec: BackendSpec) -> float:
        return self.timeout + _SPARE

    async def warm_up(self, target: WarmUpTarget) -> None:
        await _call(target, "LoadModel", self._message, self.timeout)


async def _call(target: WarmUpTarget, name: str, request: Message, timeout: float) -> None:
    method = _METHODS[name]
    path, reply_type = f"/{_SERVICE.full_name}/{name}", GetMessageClass(method.output_type)
    try:
        if not method.server_streaming:
            _judge(name, await target.channel.unary_unary(path, request, reply_type, timeout=timeout))
            return
        async with target.channel.unary_stream(path, request, reply_type, timeout=timeout) as replies:
            async for reply in replies:
                _judge(name, reply)
    except CallFailed as error:
        refused = _Unimplemented if error.status == "UNIMPLEMENTED" else WarmUpRefused
        raise refused(_about(name, f"{error.status}: {error.message}")) from error


def _judge(name: str, reply: Any) -> None:
    """Messages such as `Result` say themselves whether it went well."""
    success = reply.DESCRIPTOR.fields_by_name.get("success")
    if success is None or success.type != FieldDescriptor.TYPE_BOOL or reply.success:
        return
    raise WarmUpRefused(_about(name, getattr(reply, "message", "") or "it answered that it failed, and not why"))


def _about(name: str, text: str) -> str:
    return shortened(f"{name}: {text}", _MESSAGE_LIMIT)


@hookimpl(trylast=True)
def trio_sup_warm_ups() -> Mapping[str, Callable[..., WarmUp]]:
    return {"call": Call, "load-model": LoadModel}
