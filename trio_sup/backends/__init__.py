"""Help for writing backends in Python: the code here runs inside the backend's own process, on asyncio."""

from ._main import run
from ._server import Abort, BackendServer

__all__ = ["Abort", "BackendServer", "run"]
