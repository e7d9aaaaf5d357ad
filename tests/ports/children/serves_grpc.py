"""Serves gRPC health with grpcio's C core at ADDRESS until its stdin ends."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc

server = grpc.server(ThreadPoolExecutor(1))
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
server.add_insecure_port(sys.argv[1])
server.start()
print("listening", flush=True)
sys.stdin.read()
server.stop(0).wait()
