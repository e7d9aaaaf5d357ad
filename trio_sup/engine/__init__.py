"""The engine: everything asynchronous that supervises."""

from ._event_stream import EventStream
from ._loading import load_plugins
from ._opening import open_supervisor
from ._output import Output
from ._plugins import PluginError
from ._supervisor import Supervisor

__all__ = ["EventStream", "Output", "PluginError", "Supervisor", "load_plugins", "open_supervisor"]
