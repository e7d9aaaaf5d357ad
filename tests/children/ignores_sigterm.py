"""Ignores every polite signal."""

import signal

from _listening import listen, serve_for_ever

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
serve_for_ever(listen())
