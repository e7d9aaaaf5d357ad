"""Answers every call of every connection with Health's OK, by sockets and h2 alone: the lightest honest server.

With --connections N it closes its listener after N connections, and ends when they have ended; with --patient it does
so when it gets SIGTERM, as servers on asyncio do from Python 3.12 on.
"""

import argparse
import itertools
import signal
import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

BODY = b"\0\0\0\0\x04\x0a\x02OK"  # one uncompressed message: Reply(message=b"OK")
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]


def serve(peer):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            peer.sendall(connection.data_to_send())
            while data := peer.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        connection.send_headers(event.stream_id, HEADERS)
                        connection.send_data(event.stream_id, BODY)
                        connection.send_headers(event.stream_id, TRAILERS, end_stream=True)
                peer.sendall(connection.data_to_send())
        except (OSError, h2.exceptions.ProtocolError) as error:
            print(f"connection ended: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before it serves")
    parser.add_argument("--connections", type=int, default=0, help="how many to serve; 0 is no limit")
    parser.add_argument("--patient", action="store_true", help="wait for the clients at the end")
    options = parser.parse_args()
    if options.patient:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    time.sleep(options.delay)
    host, _, port = options.addr.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, int(port)), family=family, backlog=100) as listener:
        print(f"serving {time.monotonic()}", flush=True)
        for count in itertools.count(1):
            peer, _ = listener.accept()
            threading.Thread(target=serve, args=(peer,), daemon=not (options.connections or options.patient)).start()
            if count == options.connections:
                break


if __name__ == "__main__":
    main()
