"""Exits 0 when the service in this container says that it serves, by the standard gRPC health check."""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serves(address: str) -> bool:
    """Return whether the service that listens on `address` (any host, its port) is ready."""
    port = address.rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not serves(os.environ["TRIMTAB_GRPC_ADDRESS"]))  # noqa: TID251 - a process's own door
