"""gRPC calls from Trio. The one package on the supervisor's side that imports grpclib and asyncio."""

from ._bridge import Bridge, open_bridge, open_channel
from ._channel import Channel
from ._streams import Replies, StreamCall

__all__ = ["Bridge", "Channel", "Replies", "StreamCall", "open_bridge", "open_channel"]
