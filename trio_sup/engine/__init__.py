"""The engine: everything asynchronous that supervises."""

from ._event_stream import EventStream
from ._output import Output
from ._supervisor import Supervisor, open_supervisor

__all__ = ["EventStream", "Output", "Supervisor", "open_supervisor"]
