"""Listens at once, and answers in the way its --kind says: never with a proper Health.

bytes          random bytes
half-frame     the head of a frame and half of its body, then nothing
http1          an HTTP/1.1 error page
tls            a TLS alert
push           HTTP/2, with a server push where the answer should be
silence        accepts, and says nothing
wrong-message  a proper gRPC answer that is not OK
rst            HTTP/2, resetting the call
goaway         HTTP/2, ending the connection
slow-trickle   a proper answer, one byte every half second
trailers-only-unknown  status UNKNOWN without a message
hang-up        closes each connection at once
"""

import argparse
import random
import socket
import threading
import time

import h2.config
import h2.connection
import h2.events

FIXED = {
    "bytes": random.Random(1).randbytes(4096),
    "half-frame": b"\x00\x40\x00\x04\x00\x00\x00\x00\x00" + b"\0" * 100,
    "http1": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\noops",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "silence": b"",
}
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
NOT_OK = b"\0\0\0\0\x08\x0a\x06NOT OK"


def answer(kind, connection, stream):
    """What to send for one request that has ended."""
    if kind in ("wrong-message", "slow-trickle"):
        connection.send_headers(stream, HEADERS)
        connection.send_data(stream, NOT_OK)
        connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    elif kind == "push":
        request = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "localhost")]
        connection.push_stream(stream, stream + 1, request)
    elif kind == "rst":
        connection.reset_stream(stream, 2)
    elif kind == "goaway":
        connection.close_connection()
    elif kind == "trailers-only-unknown":
        connection.send_headers(stream, [*HEADERS, ("grpc-status", "2")], end_stream=True)
    return connection.data_to_send()


def serve(kind, peer):
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind in FIXED:
            peer.sendall(FIXED[kind])
            while peer.recv(65536):
                pass
        elif kind != "hang-up":
            speak_h2(kind, peer)


def speak_h2(kind, peer):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    peer.sendall(connection.data_to_send())
    while data := peer.recv(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                reply = answer(kind, connection, event.stream_id)
                if kind != "slow-trickle":
                    peer.sendall(reply)
                    continue
                for number in reply:
                    peer.sendall(bytes([number]))
                    time.sleep(0.5)
        peer.sendall(connection.data_to_send())


def tolerant(kind, peer):
    try:
        serve(kind, peer)
    except Exception as error:
        print(f"connection ended: {error!r}", flush=True)


def main():
    kinds = [line.split()[0] for line in __doc__.splitlines()[2:] if line]
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    parser.add_argument("--kind", required=True, choices=kinds)
    options = parser.parse_args()
    host, _, port = options.addr.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, int(port)), family=family, backlog=100) as listener:
        print(f"serving {time.monotonic()}", flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=tolerant, args=(options.kind, peer), daemon=True).start()


if __name__ == "__main__":
    main()
