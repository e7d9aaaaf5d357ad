"""Holds as many MiB as `--mib N` says, and listens once it does."""

import sys

from _listening import listen, serve_for_ever

held = bytearray(int(sys.argv[sys.argv.index("--mib") + 1]) * 2**20)
held[::4096] = b"x" * len(held[::4096])
serve_for_ever(listen())
