"""The messages of LocalAI backends (`backend_pb2`) and of the standard health service (`health_pb2`).

Only messages are generated; calls are made by path, such as `HEALTH`. Importing this package loads neither of them.
"""

from __future__ import annotations

from typing import Final

HEALTH: Final = "/backend.Backend/Health"
FREE: Final = "/backend.Backend/Free"
LOAD_MODEL: Final = "/backend.Backend/LoadModel"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"

MESSAGE_LIMIT_BYTES: Final = 50 * 2**20
"""The longest message either side accepts. Source: the LocalAI wire contract."""
