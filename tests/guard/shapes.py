"""Trees of many shapes, as the commands of their leaders; each says "ready" once it has its shape."""

from __future__ import annotations

from .talking import child


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


SHAPES = {
    "a single process": shell("echo ready; exec sleep 1000"),
    "grandchildren": shell("sleep 1000 & sh -c 'sleep 1000 & echo ready; wait' & wait"),
    "own session": shell("setsid sh -c 'echo ready; exec sleep 1000' & wait"),
    "own group": child("leaves_its_group"),
    "children a millisecond old": child("keeps_forking"),
    "daemon with marker": child("daemonizes", "keeps"),
    "daemon with marker, no leader": child("daemonizes", "keeps", "ends"),
    "daemon with marker, main thread gone": child("daemonizes", "threads"),
    "no marker, own session, parent there": shell("env -i setsid sh -c 'echo ready; exec sleep 1000' & wait"),
    "no marker, leader's session, no leader": shell("env -i sh -c 'echo ready; exec sleep 1000' & exit 0"),
    "ignores signals": shell("trap '' INT TERM HUP; sh -c 'echo ready; while :; do sleep 1000; done' & wait"),
}
