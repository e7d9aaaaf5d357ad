"""Addresses as text: ``host:port``, with an IPv6 host in brackets."""

from __future__ import annotations


def split_address(text: str) -> tuple[str, int]:
    """Read ``host:port``.

    Raises:
        ValueError: There is no host, or no port from 0 to 65535; the text says what is wrong.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"expected host:port with a port from 0 to 65535, got {text!r}")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or ("[" in host or "]" in host) or (":" in host) != bracketed:
        raise ValueError(f"expected host:port, an IPv6 host in brackets as in [::1]:50051, got {text!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Write ``host:port``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
