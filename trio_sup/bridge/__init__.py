"""gRPC calls from Trio. The one package on the supervisor's side that imports grpclib and asyncio."""

import warnings

with warnings.catch_warnings():
    # It derives from a class that Python 3.12 and 3.13 call deprecated, and that nobody uses here.
    warnings.simplefilter("ignore", DeprecationWarning)
    import trio_asyncio as _  # noqa: F401

from ._bridge import Bridge, open_bridge, open_channel
from ._channel import Channel
from ._streams import Replies, StreamCall

__all__ = ["Bridge", "Channel", "Replies", "StreamCall", "open_bridge", "open_channel"]
