"""Serves the gRPC health check; TRIMTAB_FAKE names what it does wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

environ = os.environ.copy()  # noqa: TID251
fault = environ.get("TRIMTAB_FAKE", "")
state = Path(environ["TRIMTAB_STATE_DIR"])
(state / "environ.json").write_text(json.dumps(environ))

if fault == f"dies:{environ['TRIMTAB_INSTANCE']}":
    sys.exit("the model store is upside down")
if fault == "has a child":
    child = subprocess.Popen(["sleep", "600"])
    (state / "child.pid").write_text(str(child.pid))

ended = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None if fault == "never drains" else ended.set())

checks = health.HealthServicer()
status = health_pb2.HealthCheckResponse
checks.set("", status.NOT_SERVING if fault == "never ready" else status.SERVING)
server = grpc.server(ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(checks, server)
server.add_insecure_port(environ["TRIMTAB_GRPC_ADDRESS"])
server.start()
print("serving", flush=True)
ended.wait()
(state / "drained").touch()
server.stop(None).wait()
